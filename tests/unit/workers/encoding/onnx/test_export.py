"""ONNX files: the cache, a checkpoint's own file, weights outside the folder, providers that are not there."""

from __future__ import annotations

import shutil
from typing import get_args

import numpy as np
import onnx
import pytest
import torch

from parquetry.schemas import settings as settings_module
from parquetry.schemas.errors import BadInputError, EngineRefusedError, UnsupportedOptionError
from parquetry.schemas.settings import OnnxProvider
from parquetry.schemas.spec.job import ModelSpec
from parquetry.workers.checkpoint.checkpoint import Checkpoint
from parquetry.workers.checkpoint.dense import DenseLayer
from parquetry.workers.cpu import Cpu
from parquetry.workers.encoding.batching.rows import RowLimits
from parquetry.workers.encoding.onnx import export_spec, providers
from parquetry.workers.encoding.onnx.export import content_key, export, exported
from parquetry.workers.encoding.onnx.export_spec import ExportSpec
from parquetry.workers.encoding.onnx.known_rows import KnownRows
from parquetry.workers.encoding.onnx.model_file import OnnxFile, UnsafeOnnxError
from parquetry.workers.encoding.onnx.ort_padded import OrtOptions, OrtPaddedEncoder
from parquetry.workers.encoding.outputs.vectors import Vectors
from parquetry.workers.request import EncodeRequest
from tests.models import byte_tokenizer
from tests.unit.workers.encoding.conformance import BackEnd, answers, rows
from tests.unit.workers.encoding.encoder_families import VOCAB, tiny_model

ONNX = BackEnd("onnx", "onnxruntime")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def exported_folder(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "classifier"
    export(classifier, folder, ExportSpec(task="classify"))
    return folder


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PARQUETRY_STATE_DIR", str(tmp_path))
    settings_module.settings.cache_clear()
    yield tmp_path
    settings_module.settings.cache_clear()


def small_graph(path, location):
    """A graph of one addition whose constant lies at `location`."""
    value = onnx.helper.make_tensor_value_info
    weight = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    nodes = [onnx.helper.make_node("Add", ["input_ids", "w"], ["logits"])]
    graph = onnx.helper.make_graph(nodes, "g", [value("input_ids", 1, [1])], [value("logits", 1, [1])], [weight])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return path


def test_a_second_export_of_the_same_content_is_none(classifier, state, exported_folder, monkeypatch):
    checkpoint, spec = Checkpoint.resolve(ModelSpec(id=str(classifier))), ExportSpec(task="classify")
    shutil.copytree(exported_folder, state / "onnx" / content_key(checkpoint, spec))
    monkeypatch.setattr("parquetry.workers.encoding.onnx.exporting.write_export", None)
    assert exported(checkpoint, spec).is_file()


def test_the_key_changes_with_the_spec(classifier):
    checkpoint = Checkpoint.resolve(ModelSpec(id=str(classifier)))
    specs = [ExportSpec(task="classify"), ExportSpec(task="embed"), ExportSpec(task="classify", quantization="int8")]
    assert len({content_key(checkpoint, spec) for spec in specs}) == 3


def test_a_checkpoints_own_file_is_used(classifier, exported_folder, tmp_path):
    folder = tmp_path / "with-onnx"
    shutil.copytree(classifier, folder)
    for file in exported_folder.glob("model.onnx*"):
        shutil.copy(file, folder)
    engine = ONNX.engine(folder, "classify")
    assert engine.describe()["file"] == "model.onnx"
    requests = rows(64, 150)
    expected = answers(BackEnd("padded", "transformers").engine(classifier, "classify"), requests)
    for number, result in answers(engine, requests).items():
        np.testing.assert_allclose(result.values, expected[number].values, atol=1e-4)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", ""])
def test_weights_outside_the_folder_are_refused(tmp_path, location):
    with pytest.raises(UnsafeOnnxError):
        OnnxFile.open(small_graph(tmp_path / "model.onnx", location))


@pytest.mark.parametrize("where", ["function", "sparse", "branch"])
def test_weights_that_are_no_initializers_are_looked_at_too(tmp_path, where):
    model = onnx.load(str(small_graph(tmp_path / "model.onnx", "w")), load_external_data=False)
    weight = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value="../secret")
    constant = onnx.helper.make_node("Constant", [], ["c"], value=weight)
    if where == "function":
        imports = [onnx.helper.make_opsetid("", 20)]
        model.functions.append(onnx.helper.make_function("own", "f", [], ["c"], [constant], imports))
    elif where == "sparse":
        model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=weight, dims=[1]))
    else:
        model.functions.append(onnx.helper.make_function("own", "g", ["x"], ["c"], [], []))
        inner = onnx.helper.make_graph([constant], "inner", [], [])
        model.functions[0].node.append(onnx.helper.make_node("If", ["x"], ["c"], then_branch=inner, else_branch=inner))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(UnsafeOnnxError):
        OnnxFile.open(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"\x0a" * 100, b"\x3a\xff\xff\xff\xff\x0f", b"not onnx"])
def test_a_file_that_is_no_onnx_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(BadInputError):
        OnnxFile.open(tmp_path / "model.onnx")


def test_weights_behind_a_link_out_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"0000")
    (folder / "weights").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeOnnxError):
        OnnxFile.open(small_graph(folder / "model.onnx", "weights"))


def test_weights_in_a_hub_cache_are_taken(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_bytes(b"0000")
    (snapshot / "weights").symlink_to("../../blobs/123")
    assert OnnxFile.open(small_graph(snapshot / "model.onnx", "weights")).inputs == ("input_ids",)


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_the_setting_names_the_provider(classifier, state, device, exported_folder, monkeypatch):
    monkeypatch.setenv("PARQUETRY_ONNX_PROVIDER", "cpu")
    monkeypatch.setattr("parquetry.workers.encoding.onnx.export.exported", lambda *_: exported_folder / "model.onnx")
    assert ONNX.engine(classifier, "classify", device=device).describe()["provider"] == "CPUExecutionProvider"


def test_a_named_provider_that_this_build_lacks_fails_the_job(classifier, state, monkeypatch):
    monkeypatch.setenv("PARQUETRY_ONNX_PROVIDER", "rocm")
    with pytest.raises(UnsupportedOptionError, match=r"provider rocm is not supported: .* PARQUETRY_ONNX_PROVIDER"):
        ONNX.engine(classifier, "classify")


def test_every_setting_is_a_known_provider():
    assert {"auto", *providers.PROVIDERS} == set(get_args(OnnxProvider))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("tensorrt", "install a build that has it"), ("migraphx", "install a build"), ("rocm", "PROVIDER=migraphx")],
)
def test_a_provider_that_is_not_there_is_refused_in_one_sentence(name, remedy):
    if providers.PROVIDERS[name] in providers.runtime().get_available_providers():
        pytest.skip("the installed runtime has it")
    with pytest.raises(
        UnsupportedOptionError, match=f"provider {name} is not supported: .* has only .*{remedy}"
    ) as found:
        providers.provider_name(name, "cuda:0")
    assert "CPUExecutionProvider" in str(found.value)


@pytest.mark.parametrize("name", ["tensorrt", "migraphx", "rocm", "cuda", "cpu"])
def test_every_provider_that_is_there_is_taken_by_its_name(name, monkeypatch):
    monkeypatch.setattr(providers.runtime(), "get_available_providers", lambda: list(providers.PROVIDERS.values()))
    assert providers.provider_name(name, "cuda:0") == providers.PROVIDERS[name]


def test_a_provider_that_does_not_start_is_refused(exported_folder):
    if "CUDAExecutionProvider" in providers.runtime().get_available_providers():
        pytest.skip("the installed runtime has CUDA")
    with pytest.raises(UnsupportedOptionError, match="did not start"):
        providers.open_session(exported_folder / "model.onnx", "MIGraphXExecutionProvider")


@pytest.mark.parametrize(("name", "attention"), [("modernbert", "plain"), ("roberta", "plain"), ("roberta", "fused")])
def test_windows_and_positions_survive_the_export(name, attention, tmp_path):
    """Windows of ModernBERT, positions behind RoBERTa's padding id; plain graphs have ONNX's operators alone."""
    # one layer of windows and one without
    layers = {"num_hidden_layers": 2, "global_attn_every_n_layers": 2} if name == "modernbert" else {}
    model = tiny_model(name, **layers)
    model.config.problem_type = "regression"
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer(chat=False).save_pretrained(tmp_path / "model")
    path = export(tmp_path / "model", tmp_path / "onnx", ExportSpec(task="classify", attention=attention))
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    is_fused = attention == "fused" and name == "roberta"
    assert {node.domain for node in nodes} == ({"", "com.microsoft"} if is_fused else {""})
    limits = RowLimits(vocab_size=VOCAB, max_tokens=78)
    options = OrtOptions(limits=limits, vectors=Vectors(task="classify"), pad_id=model.config.pad_token_id)
    random = np.random.default_rng(0)
    sizes = (70, 3, 41, 1)
    requests = [
        EncodeRequest(id=i, token_ids=random.integers(5, VOCAB, n).astype(np.int32)) for i, n in enumerate(sizes)
    ]
    found = answers(OrtPaddedEncoder(path, options), requests)
    model.set_attn_implementation("sdpa")
    for request in requests:
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(request.token_ids).long()[None]).logits[0]
        np.testing.assert_allclose(found[request.id].values, logits, rtol=1e-3, atol=1e-3)


def test_cuda_without_its_runtime_names_the_extra():
    if "CUDAExecutionProvider" in providers.runtime().get_available_providers():
        pytest.skip("the installed runtime has CUDA")
    with pytest.raises(UnsupportedOptionError, match="onnx-gpu"):
        providers.provider_name("auto", "cuda:0")


def test_int8_is_of_the_padded_float32_graph():
    with pytest.raises(UnsupportedOptionError, match="padded float32"):
        ExportSpec(task="classify", form="packed", dtype="float16", quantization="int8")


#: what a processor without and with VNNI is to int8
PROCESSORS = {7: Cpu("x86_64", frozenset({"avx2"})), 8: Cpu("x86_64", frozenset({"avx2", "avx_vnni"}))}


def test_the_processor_decides_the_bits_of_int8_once(classifier, monkeypatch):
    checkpoint, specs = Checkpoint.resolve(ModelSpec(id=str(classifier))), []
    for bits, processor in PROCESSORS.items():
        monkeypatch.setattr(export_spec, "this_cpu", lambda processor=processor: processor)
        specs.append(ExportSpec(task="classify", quantization="int8"))
        assert specs[-1].weight_bits == specs[-1].graph()["weight_bits"] == bits
        assert "weight_bits" not in ExportSpec(task="classify").graph()
    assert len({content_key(checkpoint, spec) for spec in specs}) == 2


@pytest.mark.parametrize("bits", PROCESSORS)
def test_int8_is_right_with_either_choice(classifier, state, monkeypatch, bits):
    monkeypatch.setattr(export_spec, "this_cpu", lambda: PROCESSORS[bits])
    engine, requests = (
        BackEnd("onnx-int8", "onnxruntime", quantization="int8").engine(classifier, "classify"),
        rows(64, 150),
    )
    assert engine.describe()["int8_weights"] == f"{bits} bits"
    (file,) = state.glob("onnx/*/model.onnx")
    weights = [onnx.numpy_helper.to_array(one) for one in onnx.load(str(file)).graph.initializer if one.data_type == 3]
    most = max(int(np.abs(weight.astype(int)).max()) for weight in weights if weight.ndim == 2)
    # sums of two products with activations of up to 255 stay below 2**15 with 7 bits
    assert most <= 64 if bits == 7 else most > 64
    expected = answers(BackEnd("padded", "transformers").engine(classifier, "classify"), requests)
    for number, result in answers(engine, requests).items():
        np.testing.assert_allclose(result.values, expected[number].values, atol=0.15)


def test_int8_is_refused_off_the_cpu(classifier, state, monkeypatch):
    monkeypatch.setattr(providers.runtime(), "get_available_providers", lambda: list(providers.PROVIDERS.values()))
    engine = BackEnd("onnx-int8", "onnxruntime", quantization="int8")
    with pytest.raises(UnsupportedOptionError, match=r"int8 on CUDAExecutionProvider .* PARQUETRY_ONNX_PROVIDER=cpu"):
        engine.engine(classifier, "classify", device="cuda:0")


def test_a_file_whose_answers_are_off_is_refused(exported_folder):
    known_rows = KnownRows.load(exported_folder)
    known_rows.check(known_rows.values)
    with pytest.raises(EngineRefusedError, match="times what its precision costs"):
        known_rows.check(known_rows.values + 0.01 * np.abs(known_rows.values).max())
    with pytest.raises(EngineRefusedError, match="are off"):
        known_rows.check(np.full_like(known_rows.values, np.nan))


def test_a_packed_export_has_the_fused_operator(classifier, tmp_path):
    path = export(classifier, tmp_path / "packed", ExportSpec(task="classify", form="packed", dtype="float16"))
    graph = onnx.load(str(path), load_external_data=False).graph
    assert sum(node.op_type == "PackedMultiHeadAttention" for node in graph.node) == 2
    named = {value.name for value in graph.input}
    assert named == {"input_ids", "position_ids", "token_type_ids", "token_offset", "cu_seqlens"}


def test_a_file_with_whole_vectors_goes_through_no_dense_layer(tmp_path):
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    nodes = [
        node("Cast", ["input_ids"], ["values"], to=1),
        node("ReduceMax", ["values"], ["most"], axes=[1], keepdims=1),
        node("ReduceMin", ["values"], ["least"], axes=[1], keepdims=1),
        node("Concat", ["most", "least"], ["sentence_embedding"], axis=1),
    ]
    inputs, outputs = [value("input_ids", 7, ["n", "m"])], [value("sentence_embedding", 1, ["n", 2])]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs)
    opset = [onnx.helper.make_opsetid("", 13)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(tmp_path / "model.onnx"))
    vectors = Vectors(task="embed", dense=(DenseLayer(tmp_path, 2, 1, "Tanh"),), dimensions=2, normalize=False)
    options = OrtOptions(limits=RowLimits(vocab_size=100, max_tokens=9), vectors=vectors)
    engine = OrtPaddedEncoder(tmp_path / "model.onnx", options)
    assert engine.describe()["embedding_dim"] == "2"
    found = answers(engine, [EncodeRequest(id=0, token_ids=np.array([4, 9, 7], np.int32))])
    assert found[0].values.tolist() == [9, 4]


def test_a_packed_export_of_token_labels(tmp_path):
    from tests.models import write_token_classifier

    folder = write_token_classifier(tmp_path / "model")
    path = export(folder, tmp_path / "packed", ExportSpec(task="classify", form="packed", dtype="float16"))
    (logits,) = onnx.load(str(path), load_external_data=False).graph.output
    assert [dim.dim_value for dim in logits.type.tensor_type.shape.dim] == [0, 6]
    # 40, 17 and 7 tokens
    assert KnownRows.load(path.parent).values.shape == (64, 6)


def test_rows_survive_the_probe_file(tmp_path):
    requests = [EncodeRequest(id=i, token_ids=np.arange(i + 1, dtype=np.int32)) for i in range(3)]
    KnownRows(requests, np.eye(3, dtype=np.float32), np.ones(3, np.float32)).save(tmp_path)
    loaded = KnownRows.load(tmp_path)
    assert [row.token_ids.tolist() for row in loaded.requests] == [[0], [0, 1], [0, 1, 2]]
