"""Tunes a released BAGEL, or any checkpoint, on one's own pictures: LoRA, or fully by `:full`.

Command:  python -m unireason_jax.train --config=configs/own_data.py --workdir=runs/mine
          --config.data.source=data/latents --config.init_from=checkpoints/bagel
          (--dry_run first: it says how much memory that takes)
          A part behind a colon says the row's length and what is trained: `:256`, `:512` (as when
          nothing is said), `:1024`, `:full`, `:256,full`.
Data:     `unireason prepare --input photos --output data/pictures --sizes bagel_512 --tokenizer
          checkpoints/bagel/tokenizer` (bagel_256, bagel_512, or bagel for 1024 pixels), then
          `unireason encode --input data/pictures --output data/latents --vae
          checkpoints/bagel/ae.safetensors`. Captions, edits, questions and refinement traces, in
          any mixture; the page notebooks/your_own_data.md has a line of every format.
Hardware: of BAGEL's 14.6 B parameters LoRA of rank 16 keeps 28.7 GiB, with
          --config.model.frozen_dtype=int8 16.5, with nf4 11.2; a row of 16,384 tokens takes about
          11 GiB more. Full tuning keeps 271.5 GiB, shared out over the mesh (computed;
          `--config.data.rows` is a multiple of the devices).
Time:     not measured.
Result:   a twentieth of the records, chosen by their ids, is never trained on: eval/loss is theirs,
          and three of them are drawn, edited or answered into samples/ at every evaluation.
"""

from ml_collections import ConfigDict

from configs import common

TOKENS = {"256": 8_192, "512": 16_384, "1024": 16_384}
"""Tokens of a row by the long edge of the pictures: 25, 14 and 3 captioned pictures or more."""


def get_config(options: str = "512") -> ConfigDict:
    config = common.get_config()
    chosen = set(options.split(",")) - {""}
    if unknown := chosen - {*TOKENS, "full"}:
        raise ValueError(f"own_data knows {', '.join(TOKENS)} and full, not {', '.join(unknown)}")
    sizes = sorted(chosen & TOKENS.keys())
    if len(sizes) > 1:
        raise ValueError(f"own_data takes one size, not {' and '.join(sizes)}")
    config.data.source = ""
    config.data.held_out_share = 0.05
    config.data.dropout = (0.1, 0.3, 0.3)
    config.data.tokens = TOKENS[sizes[0] if sizes else "512"]
    config.data.rows = 1

    full = "full" in chosen
    config.lora.rank = 0 if full else 16
    config.lora.alpha = 32.0
    config.optim.lr, config.optim.warmup_steps = 2e-5 if full else 1e-4, 50
    config.optim.eps, config.optim.ema = 1e-15, 0.995

    config.train.steps = 1000
    config.train.save_every = 250
    config.eval.every = 250
    config.eval.samples = 3
    return config
