"""What is typed more than once agrees: factories, the groups they fill, and flags."""

import dataclasses
import inspect

import pytest

from collapse_jax import families
from collapse_jax.families.gmm import em
from collapse_jax.families.language import writing
from collapse_jax.families.vae import training
from collapse_jax.lm import finetune
from experiments import family_flags, pretraining

# Flags' configs beside their factories, with what is another's by intention.
FACTORIES = [
    (family_flags.GaussianConfig, families.gaussian, set()),
    (family_flags.DiscreteConfig, families.discrete, {"probabilities"}),
    (family_flags.GmmConfig, families.gmm, set()),
    (family_flags.KdeConfig, families.kde, {"bandwidth", "centres"}),
    (family_flags.RegressionConfig, families.regression, set()),
    (family_flags.VaeConfig, families.vae, set()),
    (family_flags.LanguageConfig, families.language, {"base"}),
    (em.Settings, families.gmm, set()),
    (training.Settings, families.vae, set()),
    (finetune.Settings, families.language, set()),
    (writing.Decoder, families.language, {"batch"}),
]


def parameters(function):
    return {
        name: (parameter.annotation, parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    }


@pytest.mark.parametrize(("config", "factory", "others"), FACTORIES)
def test_what_is_typed_twice_has_one_type_and_default(config, factory, others):
    one, other = parameters(config), parameters(factory)
    shared = one.keys() & other.keys() - others
    assert {name: one[name][1] for name in shared} == {name: other[name][1] for name in shared}
    for name in shared:
        assert one[name][0] in (other[name][0], *getattr(other[name][0], "__args__", ()))


def test_what_goes_by_two_names_has_one_default():
    decoder, language = parameters(writing.Decoder), parameters(families.language)
    assert decoder["batch"] == language["decode_batch"]
    assert decoder["kind"] == language["decoder"]
    small, flags = parameters(pretraining.Small), parameters(family_flags.SmallModelConfig)
    names = {"share": "pretraining_share", "epochs": "pretraining_epochs",
             "batch": "pretraining_batch", "learning_rate": "pretraining_rate"}  # fmt: skip
    assert {names.get(name, name): value for name, value in small.items()} == flags


@pytest.mark.parametrize(
    ("config", "name", "choices"),
    [
        (family_flags.GmmConfig, "covariance", em.COVARIANCES),
        (family_flags.VaeConfig, "optimizer", tuple(training.OPTIMIZERS)),
        (family_flags.LanguageConfig, "schedule", finetune.SCHEDULES),
        (family_flags.LanguageConfig, "decoder", writing.DECODERS),
    ],
)
def test_choices_are_those_of_the_code(config, name, choices):
    (field,) = (field for field in dataclasses.fields(config) if field.name == name)
    assert field.metadata["choices"] == choices
