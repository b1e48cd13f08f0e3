"""Does reasoning help? UniReason's ablation (paper, table 4) in the world, with an exact judge.

Command:  unireason ablation --config configs/world_ablation.py --workdir runs/ablation
          [--minutes 60] [--seeds 3] [--only base,two-stage] [--dry_run]
          One run alone: unireason train --config configs/world_ablation.py:plain --workdir runs/x
Hardware: two CPU cores, 4 GiB of memory; or one accelerator.
Time:     --dry_run says it for these settings before anything starts.
Result:   <workdir>/report/report.md with the rows, intervals, controls, and whether the order of
          the paper comes out.

Every run has the model of `configs/quickstart.py` and draws the same number of supervised images,
whatever its records look like. Only the mixture of tasks differs.
"""

from ml_collections import ConfigDict

from configs import quickstart

# Every row starts from one model that has learned to describe pictures, and keeps that up a little.
CAPTIONS = {"caption": 0.05, "vqa": 0.05}
# Stage 1 teaches drawing and editing without any text; stage 2 adds plans and refinement.
# Every mixture has the same share of knowledge prompts, so that no row has merely seen more facts.
PLAIN = {"t2i": 0.4, "knowledge": 0.2, "edit": 0.3, **CAPTIONS}
REASONING = {
    "t2i": 0.15,
    "think_t2i": 0.2,
    "knowledge": 0.05,
    "think_knowledge": 0.1,
    "edit": 0.15,
    "refine_t2i": 0.2,
    "refine_knowledge": 0.05,
    **CAPTIONS,
}
JOINT = {
    task: (PLAIN.get(task, 0.0) + REASONING.get(task, 0.0)) / 2 for task in {**PLAIN, **REASONING}
}
# The sibling recipes keep some of stage 1 in the mixture (our choice): the papers' models are a
# thousand times larger and forget less.
PROCESS = {"process": 0.5, "t2i": 0.1, "knowledge": 0.2, "edit": 0.1, **CAPTIONS}
IRG = {
    "irg_initial_full": 0.2,
    "irg_improving_full": 0.3,
    "t2i": 0.1,
    "knowledge": 0.1,
    "think_knowledge": 0.1,
    "edit": 0.1,
    **CAPTIONS,
}
UNI_EDIT = {"uni_edit": 0.4, "t2i": 0.2, "knowledge": 0.2, "edit": 0.1, **CAPTIONS}
OWN_CRITIQUES = {task: share for task, share in REASONING.items() if task != "refine_t2i"}

# name: mixture; share of the images, or steps; the run whose averaged weights it starts from; and,
# where it learns from its own drafts, the share of records `unireason synthesize` made of them.
RUNS = {
    "alignment": {"mixture": {"caption": 1.0}, "steps": 600},
    "plain": {"mixture": PLAIN, "share": 1.0, "after": "alignment"},
    "stage1": {"mixture": PLAIN, "share": 0.5, "after": "alignment"},
    "stage2": {"mixture": REASONING, "share": 0.5, "after": "stage1"},
    "joint": {"mixture": JOINT, "share": 1.0, "after": "alignment"},
    "process": {"mixture": PROCESS, "share": 0.5, "after": "stage1"},
    "irg": {"mixture": IRG, "share": 0.5, "after": "stage1"},
    "uni_edit": {"mixture": UNI_EDIT, "share": 0.5, "after": "stage1"},
    "own_critiques": {
        "mixture": OWN_CRITIQUES,
        "share": 0.5,
        "after": "stage1",
        "own_critiques": REASONING["refine_t2i"],
    },
}


def get_config(run: str = "stage2") -> ConfigDict:
    config = quickstart.get_config("alignment" if run == "alignment" else "joint")
    config.data.mixture.update(dict.fromkeys(config.data.mixture, 0.0))
    config.data.mixture.update(RUNS[run]["mixture"])
    # Small steps, as when the table of configs/README.md was measured.
    config.data.rows = 2
    config.optim.lr, config.optim.warmup_steps = 1.5e-3, 100
    if run != "alignment":
        config.optim.ema = 0.998
    config.train.tensorboard = False
    config.train.keep = 1
    config.eval.every = 0
    return config


def study() -> dict:
    """What `unireason ablation` runs and compares.

    runs: as above. images: supervised images of a whole row at --minutes of `minutes`.
    rows: name, run, and how its model is asked. claims: the paper's order, smaller row first, by
    measure. sizes: flags of `unireason evaluate`. critiques: drafts to be criticised.
    """
    return {
        "runs": RUNS,
        "images": 120_000,
        "seconds_per_step": 0.10,  # two CPU cores
        "seconds_per_report": 120,
        "rows": (
            ("base", "plain", "prompt only"),
            ("two-stage", "stage2", "prompt only"),
            ("+ reasoning", "stage2", "with plan"),
            ("+ refinement", "stage2", "plan + refinement"),
            ("joint refined", "joint", "plan + refinement"),
            ("process-driven", "process", "step by step"),
            ("IRG-style", "irg", "plan + refinement"),
            ("Uni-Edit-style", "uni_edit", "prompt only"),
            ("own critiques refined", "own_critiques", "plan + refinement"),
        ),
        "claims": (
            ("knowledge", "base", "two-stage"),
            ("knowledge", "two-stage", "+ reasoning"),
            ("knowledge", "+ reasoning", "+ refinement"),
            ("held-out prompts", "base", "two-stage"),
            ("held-out prompts", "two-stage", "+ reasoning"),
            ("held-out prompts", "+ reasoning", "+ refinement"),
            ("held-out prompts", "joint refined", "+ refinement"),
            ("held-out prompts", "+ refinement", "own critiques refined"),
        ),
        "controls": "stage2",
        "sizes": {
            "prompts": 60,
            "controls": 30,
            "pairs": 0,
            "knowledge": 60,
            "edits": 12,
            "questions": 0,
            "drafts": 96,
            "hidden": 12,
            "rounds": 3,
            "seed": 4,
        },
        "sizes_of": {
            "process": {"process": 60},
            # Two turns, each of one image; refinement traces are not its language.
            "irg": {
                "conversation": "irg_improving_full",
                "rounds": 1,
                "controls": 0,
                "drafts": 0,
            },
        },
        "critiques": 3000,
    }
