"""Guided Euler sampling against the official model: every guidance, renorm and context case."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inference.golden import Golden, positions
from unireason_jax.inference import sampler
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.models import functional

pytestmark = pytest.mark.usefixtures("quick_compile")

CASES = {
    "global": {"renorm": "global"},
    "channel": {"renorm": "channel"},
    "text_channel": {"renorm": "text_channel"},
    "text_only_cfg": {"image_scale": 1.0, "renorm": "global"},
    "no_cfg": {"text_scale": 1.0, "image_scale": 1.0},
    "renorm_min": {"renorm": "channel", "renorm_min": 0.7},
}


@pytest.fixture(scope="module")
def golden(goldens):
    return Golden(goldens, "imagegen")


def settings(golden, **changes):
    s = golden.meta["settings"]
    base = {
        "timesteps": s["num_timesteps"],
        "shift": s["timestep_shift"],
        "text_scale": s["cfg_text_scale"],
        "image_scale": s["cfg_img_scale"],
        "interval": tuple(s["cfg_interval"]),
        "renorm_min": s["cfg_renorm_min"],
    }
    return FlowSettings(**(base | changes))


def contexts(golden, task):
    """Full context, without text, without images."""
    prompt = [golden.meta["prompts"][task]]
    if task == "t2i":
        full = golden.text(golden.empty(), prompt)
        return [full, golden.empty(), golden.text(golden.empty(), prompt)]
    seen = golden.latents(golden.empty(), "in.image_vae_0", "in.vae_noise_0")
    seen = golden.vit(seen, "in.image_vit_0")
    full = golden.text(jax.tree.map(jnp.copy, seen), prompt)
    return [full, seen, golden.text(golden.empty(), prompt)]


@functools.partial(jax.jit, static_argnames=("config", "markers", "settings"))
def integrate(params, *arrays, config, markers, settings):
    model = functional.bind(config, params)
    return sampler.integrate(model, *arrays, markers=markers, settings=settings)[:2]


def check(golden, key, branches, noise, grids, flow, names=("final_latent",)):
    """Times, passes, the velocity of every step, and the image at the end."""
    counts = np.array([rows * columns for rows, columns in grids], np.int32)
    place = np.zeros((len(grids), counts.max()), np.int32)
    x1 = np.zeros((*place.shape, noise.shape[-1]), np.float32)
    split = np.split(noise, np.cumsum(counts)[:-1])
    for row, grid in enumerate(grids):
        place[row, : counts[row]] = positions(*grid, golden.config.latent.side)
        x1[row, : counts[row]] = split[row]
    live = np.arange(place.shape[1]) < counts[:, None]
    times = golden.tensors[f"out.{key}.timesteps"]
    np.testing.assert_allclose(flow.times()[:-1], times, rtol=2e-7)
    assert flow.forwards(len(branches)) == golden.tensors[f"out.{key}.num_branches"].sum()
    scales = [jnp.full(len(grids), s) for s in (flow.text_scale, flow.image_scale)]
    arrays = (jnp.asarray(array) for array in (x1, place, counts))
    fixed = {"config": golden.config, "markers": golden.markers, "settings": flow}
    latents, velocities = integrate(golden.params, tuple(branches), *arrays, scales, **fixed)
    golden.close(np.asarray(velocities)[:, live], f"out.{key}.velocity")
    for row, name in enumerate(names):
        golden.close(np.asarray(latents)[row, : counts[row]], f"out.{key}.{name}")


@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_contexts(golden, task):
    for cache, name in zip(contexts(golden, task), ("gen", "cfg_text", "cfg_img")):
        golden.check_context(cache, f"out.{task}.{name}")
        length = int(cache.lengths[0])
        for layer in range(golden.config.llm.layers if length else 0):
            k, v = (x[layer, 0, :, :length].swapaxes(0, 1) for x in (cache.k, cache.v))
            golden.close(k, f"out.{task}.{name}.k_layer{layer}")
            golden.close(v, f"out.{task}.{name}.v_layer{layer}")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("task", ["t2i", "edit"])
def test_guided_sampling(golden, task, case):
    flow = settings(golden, **CASES[case])
    branches = contexts(golden, task)
    branches = branches[: 1 + (flow.text_scale > 1) + (flow.image_scale > 1)]
    height, width = golden.meta[f"shape_{task}"]
    noise = golden.tensors[f"in.init_noise_{task}"]
    check(golden, f"{task}.{case}", branches, noise, [(height // 16, width // 16)], flow)


@pytest.mark.parametrize("free", ["none", "sys"])
def test_system_prompt_in_the_context_without_text(golden, free):
    prompts = golden.meta["prompts"]
    system = golden.text(golden.empty(), [prompts["sys"]])
    full = golden.text(jax.tree.map(jnp.copy, system), [prompts["t2i"]])
    branches = [full, system if free == "sys" else golden.empty()]
    flow = settings(golden, image_scale=1.0)
    height, width = golden.meta["shape_t2i"]
    noise = golden.tensors["in.init_noise_t2i"]
    key = f"think.cfgtext_cache_{free}"
    check(golden, key, branches, noise, [(height // 16, width // 16)], flow)


def test_two_prompts_and_sizes_in_one_batch(golden):
    prompts = [golden.meta["prompts"][name] for name in ("b0", "b1")]
    full = golden.text(golden.empty(rows=2), prompts)
    for row in range(2):
        golden.check_context(full, "out.batch2.gen", row)
    flow = settings(golden, image_scale=1.0, renorm="channel")
    grids = [(h // 16, w // 16) for h, w in golden.meta["shapes_batch2"]]
    names = ("final_latent_0", "final_latent_1")
    branches = [full, golden.empty(rows=2)]
    noise = golden.tensors["in.init_noise_batch2"]
    check(golden, "batch2.channel_text_only", branches, noise, grids, flow, names)
