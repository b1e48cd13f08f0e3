"""Flow or codes: BAGEL's way of drawing against Janus's, in the world, with an exact judge.

Command:  unireason ablation --config configs/world_backbones.py --workdir runs/backbones
          [--only "flow: with plan,codes: with plan"] [--dry_run]
Hardware: two CPU cores, 4 GiB of memory; or one accelerator.
Time:     23 minutes of CPU in all; --dry_run says how long for other settings.
Result:   <workdir>/report/report.md; configs/README.md, "Flow or codes".

Both have 1.8 M parameters and four layers, and draw the same number of supervised images of the
same tasks, in rows of as many tokens. One is the MoT of `configs/quickstart.py`, which draws
latents by flow; the other a Janus, which draws codes one after another. The world's codecs lose
nothing in either form. Neither is guided; codes are drawn at temperature 1, texts are the
likeliest.

Then Uni-Edit's recipe goes on from either: edits that hide a question and nothing else, no text
supervised, a frozen ViT, latent copies of the source always dropped, a constant rate. Its rate,
length, warm-up and average are our choice, as is all of it for Janus, of whose recipe nothing is
known. Its flow keeps the world's timestep shift, which is also what it is sampled with.
"""

from ml_collections import ConfigDict

from configs import quickstart, uni_edit, world_twin

JOINT = {
    "t2i": 0.15,
    "think_t2i": 0.3,
    "refine_t2i": 0.2,
    "edit": 0.15,
    "vqa": 0.12,
    "caption": 0.08,
}
STAGES = {
    "alignment": {"mixture": {"caption": 1.0}, "steps": 400},
    "joint": {"mixture": JOINT, "share": 1.0, "after": "alignment"},
    "uni_edit": {"mixture": {"uni_edit": 1.0}, "share": 0.15, "after": "joint"},
}
BACKBONES = ("flow", "codes")
RUNS = {
    f"{backbone}_{stage}": settings
    | ({"after": f"{backbone}_{settings['after']}"} if "after" in settings else {})
    for backbone in BACKBONES
    for stage, settings in STAGES.items()
}


def get_config(run: str = "codes_joint") -> ConfigDict:
    backbone, _, stage = run.partition("_")
    config = quickstart.get_config("alignment" if stage == "alignment" else "joint")
    config.data.mixture.update(dict.fromkeys(config.data.mixture, 0.0))
    config.data.mixture.update(STAGES[stage]["mixture"])
    if backbone == "codes":
        config.model = world_twin.janus_model()
        config.model.llm.mlp = 384  # 1,785,032 parameters; the MoT has 1,794,392
    # Small steps, as in configs/world_ablation.py.
    config.data.rows = 2
    config.optim.lr, config.optim.warmup_steps = 1.5e-3, 100
    if stage != "alignment":
        config.optim.ema = 0.998
    if stage == "uni_edit":
        _as_uni_edit(config)
    config.train.tensorboard = False
    config.train.keep = 1
    config.eval.every = 0
    return config


def _as_uni_edit(config: ConfigDict) -> None:
    """What Uni-Edit's recipe says, and a rate and an average for a few hundred steps."""
    recipe = uni_edit.get_config()
    config.data.dropout = recipe.data.dropout
    config.loss.ce_weight = recipe.loss.ce_weight
    config.optim.freeze = recipe.optim.freeze
    config.optim.schedule = recipe.optim.schedule
    config.optim.lr, config.optim.warmup_steps, config.optim.ema = 3e-4, 50, 0.99


def study() -> dict:
    """What is trained and compared; see `study()` of configs/world_ablation.py.

    Of flow against codes neither is expected to be ahead: the difference is what is asked for.
    That both gain by Uni-Edit in everything is what its paper says.
    """
    modes = {
        "prompt only": "prompt only",
        "with plan": "with plan",
        "refined": "plan + refinement",
        "shown a picture": "",
    }
    names = {"joint": "", "uni_edit": " after Uni-Edit"}
    shown = ("questions", "edits", "hidden questions")
    drawn = "held-out prompts"
    return {
        "title": "Flow or codes?",
        "runs": RUNS,
        "images": 20_000,
        "seconds_per_step": 0.2,  # two CPU cores shared with other work
        "seconds_per_report": 120,
        "rows": tuple(
            (f"{backbone}{name}: {mode}", f"{backbone}_{stage}", asked)
            for stage, name in names.items()
            for backbone in BACKBONES
            for mode, asked in modes.items()
        ),
        "measures": (*shown, drawn),
        "claims": (
            *((drawn, f"flow: {mode}", f"codes: {mode}") for mode in list(modes)[:3]),
            *((measure, "flow: shown a picture", "codes: shown a picture") for measure in shown),
            *(
                (measure, f"{backbone}: {mode}", f"{backbone} after Uni-Edit: {mode}")
                for backbone in BACKBONES
                for measure, mode in (
                    *((measure, "shown a picture") for measure in shown),
                    *((drawn, mode) for mode in list(modes)[:3]),
                )
            ),
        ),
        "note": "Both backbones have as many parameters and drew as many images; Uni-Edit's stage "
        "draws 15 % more.",
        "controls": "codes_joint",
        "sizes": {
            "prompts": 24,
            "controls": 0,
            "pairs": 0,
            "knowledge": 0,
            "edits": 16,
            "questions": 16,
            "drafts": 0,
            "hidden": 32,
            "rounds": 2,
            "seed": 4,
            "flow_batches": 0,
        },
    }
