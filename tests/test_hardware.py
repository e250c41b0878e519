"""What is chosen on hardware that is described, not there; and that what is chosen arrives in the training."""

import pytest
import torch
from laboratory import SHORT, generator, small_unet

from ddpm_core import hardware, train
from ddpm_core.hardware import (
    Choice,
    Hardware,
    choose_device,
    choose_sampling,
    choose_training,
    describe,
)

TRITON = frozenset({"triton"})
TABLE = [
    # hardware, steps                                      precision, channels last, fused, compile
    (Hardware("cuda", (9, 0), TRITON), 100_000, Choice("bfloat16", True, True, True)),
    (
        Hardware("cuda", (9, 0), TRITON),
        9_999,
        Choice("bfloat16", True, True, False),
    ),  # compiling is not earned back
    (Hardware("cuda", (8, 0), TRITON), 100_000, Choice("bfloat16", True, True, True)),
    (
        Hardware("cuda", (8, 0)),
        100_000,
        Choice("bfloat16", True, True, False),
    ),  # nothing to compile with
    (Hardware("cuda", (7, 5), TRITON), 100_000, Choice("float16", True, True, True)),
    (Hardware("cuda", (7, 0), TRITON), 1000, Choice("float16", True, True, False)),
    (
        Hardware("cuda", (6, 1), TRITON),
        100_000,
        Choice("float32", False, True, False),
    ),  # no tensor cores
    (
        Hardware("cpu", features=frozenset({"avx2", "amx", "avx512_bf16"})),
        100_000,
        Choice("bfloat16", True, True, False),
    ),
    (
        Hardware("cpu", features=frozenset({"avx2", "avx512_bf16"})),
        100_000,
        Choice("bfloat16", True, True, False),
    ),
    (
        Hardware("cpu", features=frozenset({"intel", "avx2", "amx", "avx512_bf16"})),
        100_000,
        Choice("bfloat16", True, True, False),
    ),
    (
        Hardware("cpu", features=frozenset({"intel", "avx2", "avx512_bf16"})),
        100_000,
        Choice("float32", True, True, False),
    ),  # Intel's AVX512-bf16 is no quicker than its float32
    (
        Hardware("cpu", features=frozenset({"avx2"})),
        100_000,
        Choice("float32", True, True, False),
    ),  # AVX2 only: multiplies nothing shorter than float32
    (Hardware("cpu"), 100_000, Choice("float32", False, True, False)),
    (Hardware("mps"), 100_000, Choice("float32", False, False, False)),
    (Hardware("xpu"), 100_000, Choice("float32", False, False, False)),
]


@pytest.mark.parametrize(
    "found, steps, wanted",
    TABLE,
    ids=[f"{h.kind} {h.capability} {sorted(h.features)} {n}" for h, n, _ in TABLE],
)
def test_what_is_chosen(found, steps, wanted):
    assert choose_training(found, steps) == wanted


@pytest.mark.parametrize(
    "found, wanted",
    [(h, c.precision) for h, _, c in TABLE],
    ids=[f"{h.kind} {h.capability} {sorted(h.features)} {n}" for h, n, _ in TABLE],
)
def test_what_is_chosen_for_sampling(found, wanted, monkeypatch):
    """The same as for training, where the network is large enough for arithmetic to be what it waits for."""
    monkeypatch.setattr(hardware, "describe", lambda device: found)
    assert (
        choose_sampling(torch.device("cpu"), 1_000_000) == wanted
        and choose_sampling(torch.device("cpu"), 999_999) == "float32"
    )
    for asked in hardware.PRECISIONS:
        assert (
            choose_sampling(torch.device("cpu"), 1, asked)
            == choose_sampling(torch.device("cpu"), 10**8, asked)
            == asked
        )
    with pytest.raises(ValueError, match="precision = 'half'; wanted \"auto\""):
        choose_sampling(torch.device("cpu"), 1, "half")


def test_what_the_user_says_is_taken_as_it_is():
    asked = dict(precision="float16", channels_last=False, fused=False, compile=False)
    for found, steps, _ in TABLE:
        assert (
            choose_training(found, steps, "float32").channels_last
            == choose_training(found, steps).channels_last
        )
        assert choose_training(found, steps, **asked) == Choice(
            "float16", False, False, False
        )
        assert choose_training(
            found, steps, compile=True, channels_last=True
        ) == Choice(
            choose_training(found, 0).precision,
            True,
            choose_training(found, 0).fused,
            True,
        )


@pytest.mark.parametrize(
    "asked, phrase",
    [
        (dict(precision="half"), "precision = 'half'; wanted \"auto\""),
        (dict(compile="yes"), "compile = 'yes'; wanted \"auto\", True or False"),
        (dict(channels_last=1), "channels_last = 1; wanted"),
        (dict(fused=None), "fused = None; wanted"),
    ],
    ids=str,
)
def test_unknown_choices(asked, phrase):
    with pytest.raises(ValueError, match=phrase):
        choose_training(Hardware("cpu"), 1, **asked)


@pytest.mark.parametrize("maker, intel", [("Genuine", True), ("Authentic", False)])
def test_whose_a_processor_is(maker, intel, monkeypatch, tmp_path):
    """By /proc/cpuinfo where there is one, else by what platform says."""
    told = {"Genuine": "GenuineIntel", "Authentic": "AuthenticAMD"}[maker]
    for file in (tmp_path / "cpuinfo", tmp_path / "none"):
        hardware._is_intel.cache_clear()
        (tmp_path / "cpuinfo").write_text(f"vendor_id\t: {told}\n")
        monkeypatch.setattr(hardware, "Path", lambda path, file=file: file)
        name = f"Family 25 Model 17, {told}" if file.name == "none" else ""
        monkeypatch.setattr(hardware.platform, "processor", lambda name=name: name)
        assert hardware._is_intel() == intel
        assert ("intel" in describe(torch.device("cpu")).features) <= intel
    hardware._is_intel.cache_clear()


def test_this_processor_describes_itself(monkeypatch):
    assert describe(torch.device("cpu")).kind == "cpu" and describe(
        torch.device("mps")
    ) == Hardware("mps")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name, feature in (
        ("_is_amx_tile_supported", "amx"),
        ("_is_avx512_bf16_supported", "avx512_bf16"),
    ):
        for there in (True, False):
            monkeypatch.setattr(torch.cpu, name, lambda there=there: there)
            assert (feature in describe(torch.device("cpu")).features) == there
        monkeypatch.delattr(torch.cpu, name)  # as in older versions of torch
        assert feature not in describe(torch.device("cpu")).features


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2", "NO AVX"])
def test_a_processor_held_to_less_than_it_can_is_described_so(monkeypatch, capability):
    """ATEN_CPU_CAPABILITY does that, and the processor still says what it has; torch's attention in bfloat16 then fails."""
    monkeypatch.setattr(hardware, "_is_intel", lambda: False)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: True, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    left = {"avx2"} if capability == "AVX2" else set()
    assert describe(torch.device("cpu")) == Hardware("cpu", features=frozenset(left))


ALL = {"avx2", "avx512", "amx", "avx512_bf16"}


@pytest.mark.parametrize(
    "held, left",
    [
        (None, ALL),
        ("ALL", ALL),
        ("DEFAULT", ALL),
        ("AVX512_CORE_AMX", ALL),
        ("AVX10_1_512_AMX_FP16", ALL),
        ("avx512_core_bf16", {"avx2", "avx512", "avx512_bf16"}),
        ("AVX512_CORE_FP16", {"avx2", "avx512", "avx512_bf16"}),
        ("AVX512_CORE_VNNI", {"avx2", "avx512"}),
        ("AVX512_CORE", {"avx2", "avx512"}),
        ("AVX2", {"avx2"}),
        ("AVX2_VNNI_2", {"avx2"}),
        ("AVX", set()),
        ("SSE41", set()),
    ],
)
@pytest.mark.parametrize("name", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
def test_a_library_held_to_less_is_described_so(monkeypatch, name, held, left):
    """oneDNN's own variable: what it forbids, no convolution uses."""
    monkeypatch.setattr(hardware, "_is_intel", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for function in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, function, lambda: True, raising=False)
    for each in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(each, raising=False)
    if held is not None:
        monkeypatch.setenv(name, held)
    assert describe(torch.device("cpu")).features == left


def test_a_cuda_device_describes_itself(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    for there in (True, False):
        monkeypatch.setattr(
            hardware, "find_spec", lambda name, there=there: there or None
        )
        assert describe(torch.device("cuda", 0)) == Hardware(
            "cuda", (8, 6), TRITON if there else frozenset()
        )


def pictures():
    return torch.randint(0, 256, (8, 1, 8, 8), generator=generator(), dtype=torch.uint8)


def run(model, **kwargs):
    return train(
        model,
        SHORT,
        pictures(),
        **{
            **dict(
                steps=2,
                batch_size=4,
                device="cpu",
                precision="float32",
                warmup=0,
                progress=False,
            ),
            **kwargs,
        },
    )


def test_what_is_chosen_is_used_and_said_in_one_line(monkeypatch, tmp_path, capfd):
    from ddpm_core import load_checkpoint

    compiled = []
    monkeypatch.setattr(
        "ddpm_core.runtime.descent.describe", lambda device: Hardware("cpu")
    )
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    for asked in (dict(channels_last=True, fused=False, compile=True), {}):
        model, out, optimizers = small_unet(), tmp_path / str(len(asked)), []
        Adam = torch.optim.Adam
        with monkeypatch.context() as patch:
            patch.setattr(
                torch.optim,
                "Adam",
                lambda *a, **k: optimizers.append(k) or Adam(*a, **k),
            )
            run(model, out=out, progress=True, **asked)
        assert (
            model.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
            == bool(asked)
            or model.conv_in.weight.shape[1] == 1
        )
        assert model.conv_out.weight.stride() == (
            (288, 1, 96, 32) if asked else (288, 9, 3, 1)
        )
        assert optimizers[0]["fused"] == (not asked) and bool(compiled) == bool(asked)
        line = (
            "float32, channels last, Adam, compiled"
            if asked
            else "float32, channels first, fused Adam, not compiled"
        )
        assert capfd.readouterr().err.count(f"training: on cpu in {line}\n") == 1
        kept = load_checkpoint(out).info["training"]
        assert (
            kept["device"],
            kept["channels_last"],
            kept["fused"],
            kept["compile"],
        ) == ("cpu", bool(asked), not asked, bool(asked))
        compiled.clear()
    run(small_unet())
    assert capfd.readouterr().err == ""  # progress=False is silent


def test_compiled_training_is_training(monkeypatch):
    """With a backend that traces and differentiates the network but runs torch's own kernels: the same numbers."""
    plain, compiled, right = small_unet(), small_unet(), torch.compile
    run(plain)
    monkeypatch.setattr(
        torch, "compile", lambda model: right(model, backend="aot_eager")
    )
    run(compiled, compile=True)
    for a, b in zip(plain.parameters(), compiled.parameters()):
        torch.testing.assert_close(a, b)


def test_channels_last_is_resumed_exactly(tmp_path):
    """A fused Adam reads weights and moments side by side in memory, so these must come back in the layout they had."""
    from ddpm_core import load_checkpoint

    args = dict(channels_last=True, lr=1e-2, save_every=100)
    whole, parts = small_unet(multipliers=(1, 1)), small_unet(multipliers=(1, 1))
    run(whole, steps=6, out=tmp_path / "whole", **args)
    run(parts, steps=3, out=tmp_path / "parts", **args)
    run(parts, steps=6, out=tmp_path / "parts", resume=True, **args)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters())
    )
    a, b = (
        load_checkpoint(tmp_path / name, training=True).training
        for name in ("whole", "parts")
    )
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_devices_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert (
        choose_device()
        == torch.device("cpu")
        == choose_device("cpu")
        == choose_device(torch.device("cpu"))
    )


def test_each_process_takes_a_cuda_device_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setattr(hardware.distributed, "size", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(
        torch, "empty", lambda n, device: type("", (), {"device": torch.device(device)})
    )
    for asked in ("auto", "cuda"):
        for local in (0, 1):
            monkeypatch.setenv("LOCAL_RANK", str(local))
            assert (
                choose_device(asked) == torch.device("cuda", local)
                and taken[-1] == f"cuda:{local}"
            )
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(
        ValueError,
        match="process 2 of this machine has no CUDA device, there are 2; .*lower --nproc-per-node",
    ):
        choose_device("auto")
    assert choose_device("cpu") == torch.device("cpu")
    for asked in ("cuda:1", "mps"):
        with pytest.raises(ValueError, match=f"device = '{asked}' for 3 processes"):
            choose_device(asked)
