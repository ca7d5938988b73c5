"""Quantized layers against their definition, and whole models in every precision, on the CPU at small sizes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from openvla_ros.errors import ConfigError, PolicyError
from openvla_ros.policy.openvla import memory
from openvla_ros.policy.openvla.config import OpenVLAConfig, parse_config
from openvla_ros.policy.openvla.engine import Engine
from openvla_ros.policy.openvla.loading import _quantized
from openvla_ros.policy.openvla.precision import PRECISIONS, QuantizedLinear, scheme_for
from openvla_ros.policy.openvla.precision.base import Scheme
from openvla_ros.policy.openvla.precision.fp8 import FP8Linear
from openvla_ros.policy.openvla.warm_up import check_layers, warm_up
from openvla_ros.policy.registry import load_policy

CPU = torch.device("cpu")
QUANTIZED = ["int8", "int4", "int8-wo", "int4-wo"]
# (out, in) as in the towers and the language model, and shapes that no block or group divides.
SHAPES = [(144, 48), (48, 132), (96, 256), (40, 149), (1152, 4304)]


@pytest.fixture(autouse=True)
def _needs_bitsandbytes(request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params.get("precision") in ("int8", "int4") if hasattr(request.node, "callspec") else 0:
        pytest.importorskip("bitsandbytes")


def layer(precision: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> QuantizedLinear:
    make = scheme_for(precision, CPU).make
    assert make is not None
    made = make(weight, bias)
    assert isinstance(made, QuantizedLinear)
    return made


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("precision", QUANTIZED)
def test_a_layer_computes_what_its_weights_say(precision: str, shape: tuple[int, int]) -> None:
    """bitsandbytes 0.50 on a CPU is silently wrong for NF4 rows that no block of 64 divides, such as SigLIP's 4304."""
    torch.manual_seed(0)
    weight, bias = torch.randn(shape).bfloat16(), torch.randn(shape[0]).bfloat16()
    made, scheme = layer(precision, weight, bias), scheme_for(precision, CPU)
    stands_for = made.dequantized()
    assert (stands_for - weight).abs().max() <= scheme.rounding * weight.abs().max()
    assert (stands_for != weight).any()
    for rows in ((1,), (6,), (2, 300)):
        x = torch.randn(*rows, shape[1]).bfloat16()
        with torch.inference_mode():
            got, wanted = made(x).float(), F.linear(x, stands_for, bias).float()
        assert got.shape == (*rows, shape[0])
        assert (got - wanted).norm() <= scheme.tolerance * wanted.norm()


@pytest.mark.parametrize("precision", ["int4", "int8-wo", "int4-wo"])
def test_rows_do_not_influence_each_other(precision: str) -> None:
    """What drafts, padding and batches rest on."""
    torch.manual_seed(0)
    made, x = layer(precision, torch.randn(96, 256).bfloat16()), torch.randn(6, 256).bfloat16()
    with torch.inference_mode():
        before = made(x)
        x[3:] *= 1000
        assert torch.equal(made(x)[:3], before[:3])


@pytest.mark.parametrize("precision", ["int8"])
def test_an_outlier_of_one_row_changes_the_others_in_int8(precision: str) -> None:
    """Why int8 has neither drafts nor padding: an outlier takes its column out of the 8-bit product for every row."""
    torch.manual_seed(0)
    made, x = layer(precision, torch.randn(96, 256).bfloat16()), torch.randn(6, 256).bfloat16()
    with torch.inference_mode():
        before = made(x)
        x[3, 7] = 100
        assert not torch.equal(made(x)[:3], before[:3])


def test_fp8_computes_what_its_weights_say() -> None:
    """The layer itself; no CPU is offered this precision."""
    torch.manual_seed(0)
    weight, bias, x = torch.randn(96, 256).bfloat16(), torch.randn(96).bfloat16(), torch.randn(2, 3, 256).bfloat16()
    made = FP8Linear(weight, bias)
    assert (made.dequantized() - weight).abs().max() <= weight.abs().max() / 25
    wanted = F.linear(x, made.dequantized(), bias).float()
    assert (made(x).float() - wanted).norm() <= 0.06 * wanted.norm()
    x[:, 1:] *= 100
    assert torch.equal(made(x)[:, 0], made(x[:, :1])[:, 0])


def test_fp8_says_what_it_needs(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"compute capability 8\.9 or more .*, the device is the CPU"):
        Engine(tiny, device="cpu", precision="fp8")


@pytest.mark.parametrize("precision", QUANTIZED)
def test_a_quantized_policy_drives(tiny: Path, precision: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    policy = load_policy(str(tiny), unnorm_key="bridge_orig", device="cpu", precision=precision)
    policy.warm_up()
    assert np.isfinite(policy.predict(image, "lift the can").action.to_array()).all()
    description = policy.describe()
    assert (description["precision"], description["compute_dtype"]) == (precision, "bfloat16")
    assert description["scheme"]
    assert description["group_size"] in ("row", 64, 128)
    assert precision not in ("int8", "int4") or description["bitsandbytes"]


@pytest.mark.parametrize("precision", QUANTIZED)
def test_exactly_the_documented_layers_are_quantized(tiny: Path, precision: str) -> None:
    """As transformers does for bitsandbytes: every linear layer but lm_head. Weight-only: the language model's."""
    engine = Engine(tiny, device="cpu", precision=precision)
    names = {name for name, module in engine.model.named_modules() if isinstance(module, QuantizedLinear)}
    whole = Engine(tiny, device="cpu", precision="bf16")
    linear = {name for name, module in whole.model.named_modules() if isinstance(module, nn.Linear)}
    assert "language_model.lm_head" in linear
    in_llama = {name for name in linear if name.startswith("language_model.model.")}
    assert names == (in_llama if precision.endswith("-wo") else linear - {"language_model.lm_head"})
    floats = {p.dtype for p in engine.model.language_model.lm_head.parameters()}
    assert floats == {torch.bfloat16}


def test_quantization_of_damaged_weights_is_refused() -> None:
    """NaN weights quantize to something; what it stands for is no weight of this model."""
    from openvla_ros.policy.openvla.loading import fill

    class Source:
        def tensor(self, name: str) -> torch.Tensor:
            return torch.full((8, 128), torch.nan)

    with torch.device("meta"):
        model = nn.ModuleDict({"projector": nn.Linear(128, 8, bias=False)})
    scheme = Scheme("test", torch.bfloat16, "all", scheme_for("int8-wo", CPU).make, rounding=0.1)
    with pytest.raises(PolicyError, match="projector are off by nan"):
        fill(model, Source(), scheme)


@pytest.mark.parametrize("precision", QUANTIZED)
@pytest.mark.parametrize("largest", [1.0, 1.01, 1.15, 1.4, 1.99])
def test_sound_weights_are_never_refused(precision: str, largest: float) -> None:
    """Hazard: int8 of a sound checkpoint was refused where bf16 rounds coarsest, just above a power of two."""
    weight = torch.linspace(-largest, largest, 256 * 512).view(256, 512).to(torch.bfloat16)
    linear = nn.Linear(512, 256, bias=False)
    linear.weight = nn.Parameter(weight, requires_grad=False)
    assert isinstance(_quantized("layer", linear, scheme_for(precision, CPU)), QuantizedLinear)


def test_a_kernel_that_computes_wrongly_does_not_start(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong only for few rows, as a decoding kernel would be: prompts look right and actions are not."""
    engine = Engine(tiny, device="cpu", precision="int8-wo")
    check_layers(engine)
    layer = engine.model.language_model.model.layers[1].mlp.down_proj
    right = type(layer).forward

    def wrong(self: Any, x: torch.Tensor) -> torch.Tensor:
        return right(self, x) * (0.9 if len(x) < 9 else 1)

    monkeypatch.setattr(type(layer), "forward", wrong)
    with pytest.raises(PolicyError, match=r"int8-wo does not compute correctly .* with 6 rows is off by 10\.0%"):
        warm_up(engine, 7)


def test_a_missing_extra_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for precision in ("int8", "int4"):
        with pytest.raises(ConfigError, match=rf"'{precision}' needs bitsandbytes.*openvla_ros\[gpu\]"):
            Engine(tiny, device="cpu", precision=precision)


@pytest.fixture
def big(released: Path) -> OpenVLAConfig:
    from openvla_ros.policy.checkpoint import read_json

    return parse_config(read_json(released / "config.json"))


def test_too_little_memory_says_how_much_and_what_would_fit(
    big: OpenVLAConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 9_000_000_000)
    with pytest.raises(ConfigError) as caught:
        memory.check_memory(big, CPU, scheme_for("bf16", CPU))
    message = str(caught.value)
    assert "'bf16' needs about 15." in message
    assert "9.0 GB are free" in message
    assert "int4 (" in message.split("would fit")[1]
    assert "float32" not in message
    memory.check_memory(big, CPU, scheme_for("int4", CPU))
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1_000_000_000)
    with pytest.raises(ConfigError, match="no precision would fit"):
        memory.check_memory(big, CPU, scheme_for("bf16", CPU))


def test_memory_is_checked_before_anything_is_read(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    with pytest.raises(ConfigError, match="'float32' needs about"):
        Engine(tiny, device="cpu")


@pytest.mark.parametrize("precision", ["float32", "bf16", *QUANTIZED])
def test_the_estimate_of_weights_is_what_they_take(tiny: Path, precision: str) -> None:
    engine = Engine(tiny, device="cpu", precision=precision)
    tensors = {t.data_ptr(): t for m in engine.model.modules() for t in _tensors(m)}
    real = sum(t.numel() * t.element_size() for t in tensors.values())
    assert memory.weight_bytes(engine.config, engine.scheme) == pytest.approx(real, rel=0.002)


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    own += [t for t in vars(module).values() if isinstance(t, torch.Tensor)]
    state = getattr(module, "state", None)
    return own + [t for t in (getattr(state, "absmax", None), getattr(state, "SCB", None)) if t is not None]


def test_released_7b_in_int8_and_int4_is_as_small_as_it_should_be(big: OpenVLAConfig) -> None:
    """The issue of towers left in bf16: they alone would add 0.7 GB to int8."""
    pytest.importorskip("bitsandbytes")
    gigabytes = {p: memory.weight_bytes(big, scheme_for(p, CPU)) / 1e9 for p in PRECISIONS if p != "fp8"}
    assert gigabytes["bf16"] < 15.0
    assert gigabytes["int8"] < 7.9
    assert gigabytes["int4"] < 4.7


KERNELS = """
import torch
from openvla_ros.policy.openvla.precision.weight_only import Int4WeightLinear, Int8WeightLinear
torch.manual_seed(0)
for kind in (Int8WeightLinear, Int4WeightLinear):
    for out, width, rows in ((48, 132, 6), (70, 256, 1), (33, 128, 20)):
        layer, x = kind(torch.randn(out, width), None), torch.randn(rows, width)
        torch.testing.assert_close(layer.few_rows(x), x @ layer.dequantized().T, atol=1e-4, rtol=1e-4)
print("kernels agree")
"""


def test_weight_only_kernels_compute_what_the_weights_say() -> None:
    """Triton's interpreter runs the kernels on a CPU, in float32; only a process of its own can choose it."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", KERNELS], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "kernels agree\n", done.stderr
