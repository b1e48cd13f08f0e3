"""Every key of a config with its default; other config files start from here.

Defaults of `loss` and `optim` are BAGEL's fine-tuning recipe. A key whose default is None (a
placeholder) follows the model variant or, for `optim.total_steps`, `train.steps`.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    # Own checkpoint > resume_from (another run, whole state) > init_from (weights only). A run
    # that starts from random weights must say init_from="scratch".
    config.resume_from = ""
    config.init_from = ""
    config.init_which = "ema"

    config.model = ConfigDict(
        {
            "variant": "world",
            # Of matmuls: "float32", "bfloat16", or "auto": what the devices multiply in hardware.
            "dtype": placeholder(str),
            # How weights that never move are kept: "float32", "bfloat16", or their layers' kernels
            # in "int8" or "nf4". By default beside adapters as they are multiplied, else float32.
            "frozen_dtype": placeholder(str),
            "remat": placeholder(str),
            "attention": placeholder(str),
            "chunk": placeholder(int),
            "unroll": placeholder(int),
            "vit_tower": True,
            "llm": {
                "width": placeholder(int),
                "layers": placeholder(int),
                "heads": placeholder(int),
                "kv_heads": placeholder(int),
                "head_dim": placeholder(int),
                "mlp": placeholder(int),
                "vocab": placeholder(int),
            },
            "vit": {
                "width": placeholder(int),
                "layers": placeholder(int),
                "heads": placeholder(int),
                "mlp": placeholder(int),
                "patch": placeholder(int),
                "side": placeholder(int),
                "learned": placeholder(int),
            },
            "latent": {
                "channels": placeholder(int),
                "patch": placeholder(int),
                "side": placeholder(int),
            },
            # Of Janus, in the place of latents.
            "codes": {
                "size": placeholder(int),
                "width": placeholder(int),
                "side": placeholder(int),
            },
        }
    )
    # Low-rank adapters beside the weights of init_from, which stay as they are; rank 0: none, all
    # weights learn. Targets: kernels by regular expression (those of attention and MLP in both
    # experts; "^connector" or "^(latent_out|head)" add the connector or the heads).
    config.lora = ConfigDict(
        {
            "rank": 0,
            "alpha": 16.0,
            "dropout": 0.0,
            "rslora": False,
            "targets": ("^stack/blocks/(und|gen)/(query|key|value|out|gate|up|down)/kernel$",),
        }
    )
    # Whose way of sampling the model follows (`generate --preset list`): bagel, unireason, irg,
    # uni_edit or process; empty for that of its records.
    config.system = ""
    # Records: "world", a prepared folder, a JSON or parquet file, or ArrayRecord (`held_out` then
    # names another for the evaluation); or a folder of such, with their shares in `groups`. The
    # style of the templates (data/templates/style.py; prepared records have theirs already), the
    # world's share of every task (0 leaves it out), and the packed row.
    config.data = ConfigDict(
        {
            "source": "world",
            "held_out": "",
            # Without such a folder: the part of every source's records that is held out, chosen by
            # their ids.
            "held_out_share": 0.0,
            # Folders of `source`: their shares, and how many records every row holds at least.
            "groups": {},
            "quotas": {},
            "style": "plain",
            # Of files (prepared folders bring theirs): a tokenizer's folder [the world's words],
            # image sizes by name (data/image_sizes.py) [the world's for the world, else BAGEL's],
            # and whether images may lie outside of the file's folder.
            "tokenizer": "",
            "sizes": "",
            "allow_outside": False,
            # Part of a source's tokens that may be words which the vocabulary does not know.
            "max_unknown": 0.01,
            # The official ae.safetensors, to encode while training instead of beforehand.
            "vae": "",
            # The vq.safetensors of a converted Janus, whose codes pictures are drawn with.
            "vq": "",
            # Records of a file or prepared folder beside `source`: their share of the examples,
            # and how many of them every row holds at least.
            "extra": {"path": "", "share": 0.0, "quota": 0},
            "seed": 0,
            "side": 4,
            "examples": 20_000,
            "mixture": {
                "t2i": 0.0,
                "think_t2i": 0.0,
                "knowledge": 0.0,
                "think_knowledge": 0.0,
                "edit": 0.0,
                "think_edit": 0.0,
                "refine_t2i": 0.0,
                "refine_knowledge": 0.0,
                "refine_edit": 0.0,
                "process": 0.0,
                "process_conflict": 0.0,
                "process_alignment": 0.0,
                "irg_initial_thinking_understanding": 0.0,
                "irg_initial_thinking_generation": 0.0,
                "irg_initial_full": 0.0,
                "irg_improving_thinking_understanding": 0.0,
                "irg_improving_thinking_generation": 0.0,
                "irg_improving_full": 0.0,
                "vqa": 0.0,
                "caption": 0.0,
                "uni_edit": 0.0,
                # The harder world, of 6 cells per side: data.side=6.
                "hard_t2i": 0.0,
                "hard_think_t2i": 0.0,
                "hard_refine_t2i": 0.0,
                "hard_caption": 0.0,
            },
            # Tokens of a row by stream; or all 0, and `tokens` is the sum they are advised from.
            "budgets": {"text": 0, "vit": 0, "latent": 0},
            "tokens": 0,
            "rows": 8,
            "window": 512,
            # Condition dropout of texts, clean latents and ViT copies.
            "dropout": (0.1, 0.1, 0.0),
            "weighting": "token",
            # Stretch the positions of an image over the whole table (BAGEL's interpolate_pos).
            "interpolate": False,
            "workers": 0,
            "prefetch": 4,
        }
    )
    config.loss = ConfigDict(
        {
            "ce_weight": 1.0,
            "flow_weight": 1.0,
            # Of Janus's codes; pooled: text and codes are one mean over the tokens of both.
            "code_weight": 1.0,
            "pooled": False,
            "timestep_shift": 1.0,
            "ce_chunk": 1024,
            "detach_und": False,
            # Updates after which a loss is switched off; 0: never.
            "ce_until": 0,
            "flow_until": 0,
        }
    )
    # A student that draws in few passes (`unireason distill`): in each of its `steps` steps it
    # learns what the weights of init_from, guided, do in `substeps` smaller ones. substeps 0: no
    # student; steps 0: guidance alone, learned at any time. What is None is as init_from samples:
    # the shift, and guidance where the context shows no image (draw) and where it does (edit).
    config.distill = ConfigDict(
        {
            "substeps": 0,
            "steps": 0,
            "shift": placeholder(float),
            "teacher_step": placeholder(int),
            "draw": _guidance(),
            "edit": _guidance(),
        }
    )
    config.optim = ConfigDict(
        {
            "name": "adamw",  # or "adafactor", "muon"
            "lr": 2e-5,
            "schedule": "constant",
            "warmup_steps": 0,
            "total_steps": placeholder(int),
            "min_lr": 1e-7,
            "b1": 0.9,
            "b2": 0.95,
            "eps": 1e-15,
            "weight_decay": 0.0,
            # How moments are kept: "float32", "bfloat16" or (of AdamW) "int8".
            "mu_dtype": "float32",
            "nu_dtype": "float32",
            "clip_norm": 1.0,
            "ema": 0.9999,
            # Parameters by regular expression: those that never move, and ("expression", n): those
            # that stand still from update n on.
            "freeze": (),
            "freeze_from": (),
            "spike_factor": 0.0,
            "spike_window": 64,
            "max_skips": 20,
        }
    )
    config.train = ConfigDict(
        {
            "steps": 1000,
            "microbatches": 1,
            "log_every": 10,
            # A checkpoint every so many steps, and at the latest after so many minutes, which bound
            # what a lost machine costs (0: never; minutes are looked at every `log_every` steps).
            "save_every": 500,
            "save_minutes": 30.0,
            "keep": 2,
            "keep_every": 0,
            "hash_checkpoints": True,
            "tensorboard": True,
            "wandb": "",
            # Names under which Google Cloud is told of the run (the extra `google`): a job's
            # goodput to Cloud Logging, config and metrics to ML Diagnostics.
            "goodput_job": "",
            "mldiagnostics": "",
            # Steps [first, end) to record with the profiler; equal numbers record none. More are
            # asked for by a file profile_steps in the workdir, with their number in it, or at a
            # port that every host opens (0: none).
            "profile": (0, 0),
            "profiler_port": 0,
            # A step, evaluation or checkpoint that takes longer prints the stacks of all threads,
            # and ends the job after three times as long; 0 waits for ever.
            "hang_seconds": 900.0,
        }
    )
    # Sizes of the mesh axes, -1 takes the devices that are left; or the preset of an accelerator
    # (sharding.ACCELERATORS) chooses them. slices: TPU slices that the data axis spans; 0: as many
    # as the devices form.
    config.mesh = ConfigDict(
        {"preset": "", "data": 1, "fsdp": -1, "tensor": 1, "context": 1, "slices": 0}
    )
    # Loss on held-out packs every so many steps (0: never): examples drawn, batches used; and so
    # many held-out prompts are drawn with plan, draft and refined image (one process only).
    config.eval = ConfigDict({"every": 0, "examples": 512, "batches": 4, "samples": 0})
    return config


def _guidance() -> dict:
    """How a teacher is guided: fields of the sampler's `FlowSettings`."""
    return {
        "text_scale": placeholder(float),
        "image_scale": placeholder(float),
        "interval": placeholder(tuple),
        "renorm": placeholder(str),
        "renorm_min": placeholder(float),
        "text_free": placeholder(str),
        "image_free": placeholder(str),
    }
