"""A study of a dwarf model, for the tests of the ablation: all kinds of jobs, nothing learned."""

from configs import tiny

RUNS = {
    "alignment": {"mixture": {"caption": 1.0}, "steps": 4},
    "plain": {"mixture": {"t2i": 0.7, "edit": 0.3}, "share": 1.0, "after": "alignment"},
    "stage1": {"mixture": {"t2i": 0.7, "edit": 0.3}, "share": 0.5},
    "stage2": {"mixture": {"think_t2i": 0.5, "refine_t2i": 0.5}, "share": 0.5, "after": "stage1"},
    "own": {
        "mixture": {"think_t2i": 0.5},
        "share": 0.5,
        "after": "stage1",
        "own_critiques": 0.5,
    },
}


def get_config(run="stage2"):
    config = tiny.get_config()
    config.data.mixture.update(dict.fromkeys(config.data.mixture, 0.0))
    config.data.mixture.update(RUNS[run]["mixture"])
    config.data.examples = 64
    config.train.tensorboard = False
    config.train.log_every = 2
    config.eval.every = 0
    return config


def study():
    zero = dict.fromkeys(("pairs", "edits", "questions", "drafts", "hidden", "process"), 0)
    return {
        "runs": RUNS,
        "images": 160,
        "seconds_per_step": 0.1,
        "seconds_per_report": 6,
        "rows": (
            ("base", "plain", "prompt only"),
            ("two-stage", "stage2", "prompt only"),
            ("+ refinement", "stage2", "plan + refinement"),
            ("own critiques", "own", "plan + refinement"),
        ),
        "claims": (("knowledge", "base", "two-stage"),),
        "controls": "stage2",
        "sizes": zero | {"prompts": 2, "controls": 1, "knowledge": 1, "rounds": 1},
        "critiques": 20,
    }
