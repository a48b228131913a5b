"""The settings of each family on the command line, as frozen configs."""

import dataclasses

from collapse_jax import arguments
from collapse_jax.arguments import SettingError
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
                raise SettingError(
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


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """The language models; see `collapse_jax.families.language`."""

    base: str | None = setting(
        None,
        "The pretrained model: a directory, or an id on the hub such as facebook/opt-125m; none: a"
        " small one is trained first.",
    )
    revision: str | None = setting(None, "Of the model on the hub.")
    dataset: str = setting(
        "pydoc-topics",
        "Text: pydoc-topics (offline), wikitext-2, wikitext-2-raw, a directory (of train,"
        " validation and test, .txt or .parquet) or a text file.",
    )
    data_dir: str | None = setting(
        None, "Where data sets are; none: $COLLAPSE_JAX_DATA, else a user cache directory."
    )
    data_revision: str | None = setting(None, "Of the data set on the hub.")
    arms: str = setting(
        "replace:5,preserve:5",
        "What is compared: regime:epochs, comma-separated; replace, preserve, accumulate or"
        " subsample. Each has a directory in the workdir; the report is of those named last.",
    )
    real_fraction: float = setting(0.1, "preserve: share of original blocks.")
    length: int = setting(64, "Tokens of a block.")
    blocks: int | None = setting(None, "Blocks of the training text; none: all.")
    batch: int = setting(128, "Blocks of a training step.")
    accumulate: int = setting(1, "Parts of a training step, of which one is in memory.")
    learning_rate: float = setting(2e-5, "AdamW's learning rate, at its largest.")
    schedule: str = setting("constant", "Of the learning rate.", ("constant", "linear", "cosine"))
    warmup: float = setting(0.0, "Share of all steps in which the rate rises from 0.")
    weight_decay: float = setting(0.01, "AdamW's weight decay.")
    clip: float = setting(1.0, "Largest global norm of a gradient; 0: any.")
    recompute: bool = setting(
        False, "Compute layers anew for the gradient rather than keep what they computed."
    )
    chunk: int = setting(0, "Predictions whose logits are in memory at a time; 0: all of a part's.")
    start: str = setting(
        "fresh", "Each generation from the pretrained model, or the one before.", ("fresh", "warm")
    )
    decoder: str = setting("beam", "How text is written.", ("beam", "sample"))
    beams: int = setting(5, "Of beam search.")
    temperature: float = setting(1.0, "Of sampling.")
    top_k: int = setting(0, "Of sampling: so many tokens are drawn from; 0: all.")
    top_p: float = setting(1.0, "Of sampling: tokens of this probability are drawn from.")
    repetition_penalty: float = setting(
        1.0, "Of both decoders; the paper tries 2.0, its archived code 3.0; 1: none."
    )
    decode_batch: int = setting(16, "Blocks that are continued at a time.")
    validation_blocks: int | None = setting(
        None, "Blocks of the validation text that every epoch is judged on; none: all."
    )
    test_blocks: int | None = setting(None, "Blocks of the test text; none: all.")
    prompt: str | None = setting(
        None,
        "Text that each generation continues; none: the first block of the training text. Part of"
        " the run: another needs another workdir.",
    )
    kept_blocks: int | None = setting(
        None, "Of the blocks new in each generation, how many the history keeps; none: all."
    )
    tail: float = setting(0.1, "Share of the first text's tokens that its rarest types make up.")
    dtype: str = setting("float32", "What the network computes in.", ("float32", "bfloat16"))

    def __post_init__(self) -> None:
        """Refuses arms that are none, and a share that is none."""
        arguments.share("real_fraction", self.real_fraction)
        assert self.listed

    @property
    def listed(self) -> list[tuple[str, int]]:
        """Regimes and epochs of the arms."""
        found = []
        for arm in self.arms.split(","):
            regime, _, epochs = arm.partition(":")
            if regime not in ARMS or not epochs.isdecimal() or int(epochs) < 1:
                raise SettingError(
                    f"arms: expected regime:epochs with a regime of {', '.join(ARMS)} and at least"
                    f" one epoch, got {arm!r}"
                )
            found.append((regime, int(epochs)))
        if len(set(found)) < len(found):
            raise SettingError(f"arms: expected each once, got {self.arms!r}")
        return found


ARMS = ("replace", "preserve", "accumulate", "subsample")


@dataclasses.dataclass(frozen=True)
class SmallModelConfig:
    """The small model that is trained where there is no --base; see `language.pretraining`."""

    vocabulary: int = setting(1024, "Without --base: ids of its byte-level BPE at most.")
    hidden: int = setting(96, "Without --base: width.")
    layers: int = setting(2, "Without --base: layers.")
    heads: int = setting(4, "Without --base: attention heads.")
    dropout: float = setting(0.0, "Without --base: dropout, in pretraining and fine-tuning.")
    pretraining_share: float = setting(
        0.5,
        "Without --base: share of the training text that it is trained on; chains see the rest.",
    )
    pretraining_epochs: int = setting(10, "Without --base: passes over its part of the text.")
    pretraining_batch: int = setting(32, "Without --base: blocks of a step.")
    pretraining_rate: float = setting(2e-3, "Without --base: largest learning rate.")
