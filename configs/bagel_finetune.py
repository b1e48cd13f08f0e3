"""BAGEL's fine-tuning recipe on one's own data (TRAIN.md of the release).

Command:  python -m unireason_jax.train --config=configs/bagel_finetune.py --workdir=runs/bagel
          (--dry_run first; checkpoints/bagel from `unireason convert --from bagel`)
Data:     `unireason prepare --format bagel_t2i|bagel_edit|bagel_vlm --tokenizer
          checkpoints/bagel/tokenizer --output pixels/t2i|edit|vlm ...`, then `unireason encode
          --config configs/bagel_finetune.py --config.data.source=pixels --output data/bagel --vae
          checkpoints/bagel/ae.safetensors`. Questions get edits' ViT sizes, 224 to 518 pixels; the
          release reads them at 378 to 980.
Hardware: 14.6 B parameters, their moments and their average take 217 GiB in float32, gradients
          54 GiB more, shared out over the mesh. As it is: a v5p-16, a v6e-16, four chips of tpu7x
          or 8 GPUs of 80 GB, with --config.mesh.preset; where more than 8 devices hold a row each,
          --config.data.rows (launch/README.md, "Which recipe fits where").
Time:     not measured. The release names no number of steps either.
Result:   the release starts at loss/flow near 0.40 and loss/ce of 0.55 to 1.34 on its toy data.
Twin:     configs/world_twin.py:bagel_finetune trains the same recipe on a CPU.
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()
    config.init_from = "checkpoints/bagel"
    config.model.variant = "bagel_7b_mot"

    config.data.source = "data/bagel"
    config.data.groups = ConfigDict({"t2i": 1.0, "edit": 1.0, "vlm": 1.0})
    config.data.dropout = (0.1, 0.3, 0.3)
    # The release packs 10,240 to 11,520 tokens. How they are shared out between the streams is our
    # choice: `unireason prepare` prints the best budgets for the data at hand.
    config.data.budgets = ConfigDict({"text": 1_280, "vit": 2_048, "latent": 8_192})
    config.data.rows = 8

    config.optim.lr, config.optim.warmup_steps = 2e-5, 2000
    config.optim.eps, config.optim.ema = 1e-15, 0.9999
    config.loss.timestep_shift = 1.0

    config.train.steps = 10_000  # our choice
    config.train.save_every = 2000
    return config
