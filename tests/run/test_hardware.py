"""The dtype "auto" is what the devices multiply in hardware."""

import pytest

from unireason_jax.run import configuration, hardware

FACTS = {
    "flags\t\t: fpu avx2 avx512f avx512_bf16 avx512vl\n": "bfloat16",
    "flags\t\t: fpu sse4_2 amx_tile amx_bf16\n": "bfloat16",
    "Features\t: fp asimd sve bf16 i8mm\n": "bfloat16",
    "flags\t\t: fpu avx2 fma avx512f\n": "float32",
    "processor\t: 0\n": "float32",
}


@pytest.mark.parametrize("text", FACTS)
def test_auto_follows_the_instructions_of_a_cpu(text, tmp_path, monkeypatch):
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\n" + text)
    monkeypatch.setattr(hardware, "CPU_FACTS", facts)
    wanted = FACTS[text]
    assert hardware.native_dtype("cpu") == wanted
    config = configuration.load("configs/quickstart.py", {"model.dtype": "auto"})
    assert configuration.model_config(config, "cpu").dtype == wanted
    assert configuration.model_config(config, "tpu").dtype == "bfloat16"
    assert wanted in hardware.dtype_sentence(wanted)


def test_a_cpu_that_emulates_bfloat16_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "CPU_FACTS", tmp_path / "absent")
    assert hardware.native_dtype("cpu") == "float32"
    assert "emulates" in hardware.dtype_sentence("bfloat16")
    assert "--config.model.dtype=auto" in hardware.dtype_sentence("bfloat16")


def test_what_is_asked_for_is_kept():
    for dtype in ("float32", "bfloat16"):
        config = configuration.load("configs/quickstart.py", {"model.dtype": dtype})
        assert configuration.model_config(config).dtype == dtype
