"""Weights in every published format; damaged, incomplete and malicious files."""

import io
import json
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import load_file, save_file

from collapse_jax.lm.config import to_json
from collapse_jax.lm.weights import _weight_patterns, load, resolve, save
from tests.lm.small import LAYOUTS, SMALL, TINY, published, weights

GOLDENS = Path(__file__).parent / "goldens"


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def directory(path, config):
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(to_json(config)))
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_saved_is_loaded(name, tmp_path):
    config, params = LAYOUTS[name], weights(LAYOUTS[name])
    save(tmp_path, config, params)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
    loaded_config, loaded = load(tmp_path)
    assert loaded_config == config
    same(loaded, params)


def test_safetensors_in_several_files(tmp_path):
    config, params = LAYOUTS["350m"], weights(LAYOUTS["350m"])
    path = directory(tmp_path, config)
    arrays = published(params)
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(arrays)}
    for place in set(places.values()):
        save_file({n: a for n, a in arrays.items() if places[n] == place}, path / place)
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    same(load(path)[1], params)
    os.remove(path / "model-00002-of-00002.safetensors")
    with pytest.raises(FileNotFoundError, match="model-00002.*which an index lists"):
        load(path)
    index.write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(ValueError, match="expected an index of weights at"):
        load(path)


def nested(params):
    """Arrays nested as in Flax's checkpoints of OPT."""
    inner = {name: value for name, value in params.items() if name != "layers"}
    inner["layers"] = {str(i): layer for i, layer in params["layers"].items()}
    return {"model": {"decoder": inner}}


@pytest.mark.parametrize("name", LAYOUTS)
def test_flax_msgpack(name, tmp_path):
    config, params = LAYOUTS[name], weights(LAYOUTS[name])
    path = directory(tmp_path, config)
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), params)
    (path / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(nested(half)))
    loaded = load(path)[1]
    assert loaded["layers"][0]["fc1"]["kernel"].dtype == np.float32
    same(loaded, jax.tree.map(lambda leaf: leaf.astype(np.float32), half))


def test_a_pytorch_file_without_pytorch(tmp_path):
    path = directory(tmp_path, TINY)
    shutil.copy(GOLDENS / "opt.bin", path / "pytorch_model.bin")
    loaded = published(load(path)[1])
    for i, (name, array) in enumerate(published(weights(TINY)).items()):
        kind = (np.float32, np.float16, jnp.bfloat16)[i % 3]
        np.testing.assert_array_equal(loaded[name], array.astype(kind).astype(np.float32))
    whole = (path / "pytorch_model.bin").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (path / "pytorch_model.bin").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match="expected a complete PyTorch file"):
            load(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_pytorch_files(name, kind, tmp_path):
    torch = pytest.importorskip("torch", reason="the extra benchmark is not installed")
    config, path = LAYOUTS[name], directory(tmp_path, LAYOUTS[name])
    given = published(weights(config))
    tensors = {n: torch.tensor(array).to(getattr(torch, kind)) for n, array in given.items()}
    expected = {n: tensor.float().numpy() for n, tensor in tensors.items()}

    def check():
        for name, array in published(load(path)[1]).items():
            np.testing.assert_array_equal(array, expected[name])

    torch.save(tensors, path / "pytorch_model.bin")
    check()
    (path / "pytorch_model.bin").unlink()
    places = {n: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, n in enumerate(tensors)}
    for place in set(places.values()):
        torch.save({n: t for n, t in tensors.items() if places[n] == place}, path / place)
    index = path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_transformers_and_we_read_each_others_files(name, tmp_path):
    torch = pytest.importorskip("torch", reason="the extra benchmark is not installed")
    from tests.lm.small import twin

    config, params = LAYOUTS[name], weights(LAYOUTS[name])
    peer = twin(config, params, tmp_path / "ours")
    peer.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    loaded_config, loaded = load(tmp_path / "theirs")
    assert loaded_config == config
    same(loaded, params)
    torch.save(peer.state_dict(), directory(tmp_path / "bin", config) / "pytorch_model.bin")
    same(load(tmp_path / "bin")[1], params)


def pickled(path, value):
    """A file in `torch.save`'s layout, with any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))
        archive.writestr("archive/version", "3\n")


class Malicious:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_would_run_code_is_rejected_and_runs_nothing(tmp_path):
    path, target = directory(tmp_path, SMALL), tmp_path / "made-by-the-pickle"
    for function, arguments in [
        (os.system, (f"touch {target}",)),
        (exec, (f"open({str(target)!r}, 'w')",)),
        (Path.touch, (target,)),
        (io.open, (str(target), "w")),
        (getattr, ("text", "upper")),
    ]:
        pickled(path / "pytorch_model.bin", {"weight": Malicious(function, *arguments)})
        # A trusting unpickler does run the code, so the test can fail.
        with pytest.raises(
            ValueError, match=r"expected only tensors .* got a pickle that names \S+, which"
        ):
            load(path)
        assert not target.exists()
    with zipfile.ZipFile(path / "pytorch_model.bin", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(Malicious(os.system, f"touch {target}")))
    with zipfile.ZipFile(path / "pytorch_model.bin") as archive:
        pickle.loads(archive.read("a/data.pkl"))
    assert target.exists()


def test_a_tensor_beyond_its_storage_is_rejected(tmp_path):
    from collapse_jax.lm import torch_files

    storage = np.arange(6, dtype=np.float32)
    np.testing.assert_array_equal(torch_files._view(storage, 1, (2, 2), (2, 1)), [[1, 2], [3, 4]])
    assert torch_files._view(storage, 0, (0, 3), (3, 1)).shape == (0, 3)
    much = (1 << 20, 1 << 20), (0, 0)
    for offset, shape, strides in [
        (1, (2, 3), (3, 1)), (-1, (2,), (1,)), (3, (3,), (-1,)), (0, *much)
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="reaches beyond its storage"):
            torch_files._view(storage, offset, shape, strides)


def test_all_faults_are_in_one_error(tmp_path):
    params = weights(SMALL)
    arrays = published(params)
    del arrays["model.decoder.layers.0.fc1.bias"]
    arrays["model.decoder.layers.7.fc1.bias"] = np.zeros(48, np.float32)
    arrays["model.decoder.layers.1.fc2.weight"] = np.zeros((48, 48), np.float32)
    path = directory(tmp_path, SMALL)
    save_file(arrays, path / "model.safetensors")
    with pytest.raises(ValueError, match="weights do not fit the config") as caught:
        load(path)
    text = str(caught.value)
    assert "model.decoder.layers.0.fc1.bias is missing" in text
    assert "model.decoder.layers.7.fc1.bias is not expected" in text
    assert "layers.1.fc2.weight has shape (48, 48), expected (32, 48)" in text
    assert "\n" not in text


def test_every_array_is_one_parameter(tmp_path):
    arrays = published(weights(SMALL))
    name = "model.decoder.layers.0.fc1.weight"
    arrays[name.removeprefix("model.")] = arrays[name] + 1
    arrays["model.decoder.layers.0.self_attn.q_proj.scale"] = arrays[name]
    bias = "model.decoder.layers.1.fc2.bias"
    arrays[bias] = arrays[bias].astype(np.int32)
    path = directory(tmp_path, SMALL)
    save_file(arrays, path / "model.safetensors")
    with pytest.raises(ValueError, match="weights do not fit the config") as caught:
        load(path)
    text = str(caught.value)
    assert re.search(r"layers.0.fc1.weight and \S*layers.0.fc1.weight are one parameter", text)
    assert "q_proj.scale is not expected" in text
    assert f"{bias} is int32, expected floating-point numbers" in text


def test_a_pickle_of_other_things_is_named(tmp_path):
    path = directory(tmp_path, SMALL)
    for value, part in [([1.0], "got list"), ({"state_dict": {}}, "got dict at 'state_dict'")]:
        pickled(path / "pytorch_model.bin", value)
        with pytest.raises(ValueError, match=f"expected tensors by name in .*{part}"):
            load(path)


def test_a_head_of_its_own_is_rejected(tmp_path):
    params = weights(SMALL)
    arrays = published(params)
    path = directory(tmp_path, SMALL)
    head = arrays["model.decoder.embed_tokens.weight"].copy()
    save_file({**arrays, "lm_head.weight": head}, path / "model.safetensors")
    same(load(path)[1], params)
    save_file({**arrays, "lm_head.weight": head + 1}, path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lm_head.weight: expected the word embedding"):
        load(path)


@pytest.mark.parametrize("name", ["model.safetensors", "flax_model.msgpack", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"junk" * 100, "truncated"])
def test_damaged_files_are_named(name, content, tmp_path):
    path, params = directory(tmp_path, SMALL), weights(SMALL)
    if content == "truncated":
        save(path, SMALL, params)
        whole = {
            "model.safetensors": (path / "model.safetensors").read_bytes(),
            "flax_model.msgpack": serialization.msgpack_serialize(nested(params)),
            "pytorch_model.bin": b"PK\x03\x04" + 1000 * b"\0",
        }[name]
        os.remove(path / "model.safetensors")
        content = whole[: len(whole) // 2]
    (path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"expected .*{re.escape(name)}") as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_nothing_to_load(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected weights in .*model.safetensors.*none"):
        load(directory(tmp_path, SMALL))
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected a config.json at"):
        load(tmp_path)


def test_an_id_that_is_not_here_while_offline(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match="expected a directory or an id.*not fetched before"
    ):
        load("someone/opt-nowhere")
    with pytest.raises(FileNotFoundError, match="model: expected a directory or an id on the hub"):
        load("no/such/directory/at/all")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="model: expected a directory .*, which is a file"):
        load(tmp_path / "file")


class OutOfReach(Exception):
    """An error of the hub's client: not an OSError, and with a name that varies by version."""


@pytest.mark.parametrize("fetched", [False, True])
def test_a_hub_that_cannot_be_reached(fetched, monkeypatch, tmp_path):
    import huggingface_hub
    import huggingface_hub.constants as constants

    def fail(*args, **settings):
        raise OutOfReach("[Errno -2] Name or service not known\nand more")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    if fetched:
        params = weights(SMALL)
        hub_layout(tmp_path, params)
        same(load("someone/opt-small")[1], params)
        return
    with pytest.raises(FileNotFoundError, match=r"out of reach \(\[Errno -2\] .*known\)") as caught:
        load("someone/opt-small")
    assert "\n" not in str(caught.value)


def test_an_id_that_the_hub_does_not_know(monkeypatch):
    from unittest.mock import MagicMock

    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    def fail(*args, **settings):
        raise RepositoryNotFoundError("404: there is no such repository", response=MagicMock())

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", fail)
    with pytest.raises(FileNotFoundError, match="got 'someone/opt': 404: there is no such"):
        load("someone/opt")


def hub_layout(cache, params):
    """Writes a repository in the cache layout of the hub's client; returns its commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = cache / "models--someone--opt-small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    save(repository / "snapshots" / commit, SMALL, params)
    return commit


def test_the_hubs_layout_is_found_while_offline(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    params = weights(SMALL)
    commit = hub_layout(tmp_path, params)
    config, loaded = load("someone/opt-small")
    assert config == SMALL
    same(loaded, params)
    same(load("someone/opt-small", revision=commit)[1], params)


def test_one_format_is_fetched():
    assert _weight_patterns(["flax_model.msgpack", "pytorch_model.bin", "README.md"]) == [
        "flax_model.msgpack"
    ]
    sharded = ["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"]
    assert _weight_patterns(sharded) == [
        "pytorch_model.bin.index.json", "pytorch_model-*.bin"
    ]  # fmt: skip
    assert _weight_patterns(["README.md"]) == []


def test_saved_files_are_contiguous_in_pytorchs_layout(tmp_path):
    save(tmp_path, SMALL, weights(SMALL))
    arrays = load_file(tmp_path / "model.safetensors")
    assert arrays["model.decoder.layers.0.fc1.weight"].shape == (SMALL.inner, SMALL.hidden)


def test_what_cannot_be_loaded_is_not_saved(tmp_path):
    params = weights(SMALL)
    with pytest.raises(ValueError, match="params: expected those of a model of the config"):
        save(tmp_path / "other", LAYOUTS["350m"], params)
    with pytest.raises(ValueError, match="params: expected those of a model of the config"):
        save(tmp_path / "other", SMALL, {})
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="expected a directory at .*file, got a file"):
        save(tmp_path / "file", SMALL, params)


@pytest.mark.parametrize("name", ["", "/none", "./none", "~/none"])
def test_a_path_is_not_looked_for_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match=f"got '{name}', and there is no such directory"):
        resolve(name)
