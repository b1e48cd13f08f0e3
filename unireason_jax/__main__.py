"""`unireason <verb> ...`: one door to the entry points, which also run as modules."""

import difflib
import gc
import runpy
import sys

VERBS = {
    "new": "start a project for your own pictures: config, data folders, Makefile",
    "train": "train from a config; resumes by itself",
    "distill": "train a student that draws in few passes, without guidance; resumes by itself",
    "rl": "reinforce a trained model on its own trajectories; resumes by itself",
    "generate": "plan, draft, reflect and refine a prompt with a trained model",
    "serve": "answer OpenAI's protocol over HTTP, with a page to try a model in a browser",
    "evaluate": "judge a checkpoint in the embedded world and write a report with pictures",
    "benchmark": "public benchmarks: draw in their layout, ask a judge, apply the formula",
    "ablation": "train, evaluate and compare the rows of a study; resumes by itself",
    "synthesize": "let a model draw, criticise its drafts, and write refinement records",
    "prepare": "convert records to shards with an index; --show draws a pack",
    "encode": "store latents of prepared records, so that training streams them",
    "convert": "read released BAGEL or UniReason weights, or write them",
    "parity": "compare with recordings of the official code, tensor by tensor",
    "compile_check": "compile for a TPU topology without a TPU: memory, FLOPs, collectives",
    "bench": "measure packing, the loader, the train step, texts and images",
}


MODES = {"distill": ("train", "configs/distill.py")}
"""Verbs that are another one with a config of their own, unless --config names one."""


OBJECTS = 50_000
"""New objects after which Python looks for garbage. What is imported and traced stays, and looking
through it after every few hundred takes a tenth of a start."""


def usage() -> str:
    """The list of verbs, one line each."""
    lines = [f"  {verb:<10} {about}" for verb, about in VERBS.items()]
    return "usage: unireason <verb> [flags]   (unireason <verb> --help)\n" + "\n".join(lines)


def main() -> None:
    """Runs the verb named by the first argument with the remaining ones."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return
    verb = arguments[0]
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        sys.exit(f"unireason: unknown verb '{verb}'.{hint}\n{usage()}")
    given = arguments[1:]
    sys.argv = [f"unireason {verb}", *given]
    if verb in MODES:
        verb, config = MODES[verb]
        named = any(one.lstrip("-").split("=")[0] == "config" for one in given)
        sys.argv[1:] = given if named else [f"--config={config}", *given]
    gc.set_threshold(OBJECTS)
    runpy.run_module(f"unireason_jax.{verb}", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
