"""The settings of each family on the command line, as frozen configs."""

import dataclasses

from collapse_jax.config import numbers, setting


@dataclasses.dataclass(frozen=True)
class GaussianConfig:
    """The Gaussian family; see `collapse_jax.families.gaussian`."""

    dim: int = setting(1, "Dimension.")
    estimator: str = setting(
        "unbiased", "Covariance estimator: divides by M - 1, or by M.", ("unbiased", "ml")
    )
    sampler: str = setting(
        "exact", "Draw a sample's moments (O(1) in M), or its rows.", ("exact", "rows")
    )
    sampling_bias: float = setting(1.0, "lambda: synthetic data come from N(mu, lambda Sigma).")
    tail: float = setting(0.02, "The original's probability beyond its two tail quantiles.")


@dataclasses.dataclass(frozen=True)
class DiscreteConfig:
    """The discrete family; see `collapse_jax.families.discrete`."""

    dataset: str | None = setting(
        None,
        "Corpus whose words are counted: pydoc-topics (offline; the default), wikitext-2, or a"
        " text file.",
    )
    vocabulary: int | None = setting(
        None, "Keep this many of the most frequent words and pool the rest; none: all."
    )
    probabilities: str | None = setting(
        None, "Given probabilities (or counts) instead of a corpus, comma-separated."
    )
    data_dir: str | None = setting(
        None, "Where data sets are; none: $COLLAPSE_JAX_DATA, else a user cache directory."
    )
    tail: float = setting(0.02, "The rarest words of this total probability are the tail.")

    def __post_init__(self) -> None:
        """Refuses a corpus beside given probabilities."""
        for name in ("dataset", "vocabulary", "data_dir"):
            if self.probabilities is not None and getattr(self, name) is not None:
                raise ValueError(
                    f"{name}: only for a corpus, got probabilities={self.probabilities!r} too"
                )

    @property
    def given(self) -> list[float]:
        """The given probabilities."""
        return numbers("probabilities", self.probabilities or "", float)


@dataclasses.dataclass(frozen=True)
class GmmConfig:
    """The mixture family; see `collapse_jax.families.gmm`."""

    components: int = setting(2, "Components k of the model.")
    covariance: str = setting(
        "full", "Covariances of components.", ("full", "diagonal", "spherical")
    )
    truth: str = setting(
        "two-gaussians",
        "The original: two-gaussians, blob, or weights, means, covariances as JSON or in a file.",
    )
    start: str = setting(
        "warm",
        "Start of EM after generation 0: the model before, or k-means++.",
        ("warm", "k-means++"),
    )
    starts: int = setting(1, "k-means++ starts, of which the likeliest end is kept.")
    tolerance: float = setting(
        1e-5, "EM ends when the mean log-likelihood changes by less, in nats."
    )
    max_iterations: int = setting(2000, "EM iterations of a fit at most.")
    regularisation: float = setting(
        1e-6,
        "Added to variances (scikit-learn's reg_covar), which under replace settle at M times it.",
    )
    tail: float = setting(0.02, "The original's probability beyond its two tail quantiles.")


@dataclasses.dataclass(frozen=True)
class KdeConfig:
    """The kernel density family; see `collapse_jax.families.kde`."""

    dim: int = setting(1, "Dimension.")
    bandwidth: str = setting(
        "scott", "Bandwidth h in data units, or scott or silverman (a factor times each sd)."
    )
    centres: int | None = setting(
        None, "Most draws of a generation that a model can serve; none: the largest of --samples."
    )
    tail: float = setting(0.02, "The original's probability beyond its two tail quantiles.")

    @property
    def rule(self) -> float | str:
        """The bandwidth, as a number where it is one."""
        try:
            return float(self.bandwidth)
        except ValueError:
            return self.bandwidth


@dataclasses.dataclass(frozen=True)
class RegressionConfig:
    """The linear regression family; see `collapse_jax.families.regression`."""

    dim: int = setting(10, "Number of weights.")
    noise: float = setting(1.0, "Standard deviation of the noise.")
    design: str = setting("new", "Whether rows X are drawn anew every generation.", ("same", "new"))


@dataclasses.dataclass(frozen=True)
class VaeConfig:
    """The variational autoencoders; see `collapse_jax.families.vae`."""

    dataset: str = setting(
        "digits",
        "Images: digits (8x8, offline), mnist, or a directory of idx files named like MNIST's.",
    )
    model: str = setting(
        "mlp", "The paper's convolutional autoencoder, or one hidden layer.", ("conv", "mlp")
    )
    hidden: int = setting(400, "Units of mlp's hidden layers.")
    latent: int = setting(20, "Latent dimension.")
    synthetic: str = setting(
        "live",
        "Synthetic images: drawn anew for each minibatch, or a fixed set a generation.",
        ("live", "fixed"),
    )
    decoder: str = setting(
        "mean", "Generated pixels: the decoder's means, or Bernoulli draws.", ("mean", "bernoulli")
    )
    epochs: int = setting(30, "Passes over the training set of a fit.")
    batch: int = setting(256, "Images of a minibatch.")
    optimizer: str = setting("adam", "Optimizer.", ("adam", "sgd"))
    learning_rate: float = setting(1e-3, "Learning rate.")
    weight_decay: float = setting(1e-5, "L2 weight decay, added to the summed loss's gradient.")
    reconstruction: str = setting(
        "bernoulli", "Reconstruction loss: cross-entropy, or half the squared error.",
        ("bernoulli", "gaussian"),
    )  # fmt: skip
    kl_weight: float = setting(1.0, "Weight of the divergence in the loss (beta).")
    start: str = setting(
        "fresh", "Parameters before a fit: new ones, or the model before.", ("fresh", "warm")
    )
    test_images: int = setting(
        360, "Random test images, and generated ones, that metrics are taken on."
    )
    pictures: int = setting(16, "Generated images kept in the history, by generation.")
    tail: float = setting(
        0.02, "Share of generation 0's images beyond both tail quantiles, by dimension."
    )
    chains_together: int = setting(
        1, "Chains in one batched product on CPU, where batches of chains run in turn."
    )
    data_dir: str | None = setting(
        None, "Where data sets are; none: $COLLAPSE_JAX_DATA, else a user cache directory."
    )
