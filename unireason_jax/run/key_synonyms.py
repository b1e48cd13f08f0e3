"""What other codes call the keys of a config."""

_NAMES = {
    "optim.lr": "learning_rate base_lr peak_lr max_lr lr_max",
    "optim.min_lr": "end_lr final_lr lr_min minimum_learning_rate min_learning_rate",
    "optim.weight_decay": "wd l2 decay",
    "optim.warmup_steps": "warmup num_warmup_steps warmup_iters",
    "optim.schedule": "scheduler lr_schedule lr_scheduler lr_scheduler_type",
    "optim.clip_norm": "grad_clip max_grad_norm clip gradient_clipping clip_grad_norm max_norm",
    "optim.ema": "ema_decay ema_rate",
    "optim.b1": "beta1 adam_beta1 adam_b1",
    "optim.b2": "beta2 adam_beta2 adam_b2",
    "optim.eps": "epsilon adam_eps adam_epsilon",
    "optim.freeze": "frozen freeze_patterns",
    "lora.rank": "lora_r lora_rank r lora_dim adapter_rank",
    "lora.alpha": "lora_alpha",
    "lora.dropout": "lora_dropout",
    "lora.targets": "target_modules lora_target_modules",
    "lora.rslora": "use_rslora",
    "model.frozen_dtype": "load_in_4bit load_in_8bit quantization weights_dtype base_dtype",
    "train.steps": "epochs num_epochs max_epochs epoch num_steps max_steps iterations max_iters "
    "num_train_steps num_train_epochs training_steps",
    "train.microbatches": "grad_accum gradient_accumulation_steps accumulate_grad_batches "
    "accumulation_steps accum_steps",
    "train.save_every": "checkpoint_every ckpt_every save_interval save_steps save_freq "
    "checkpoint_interval",
    "train.keep": "save_total_limit max_to_keep keep_last",
    "train.log_every": "log_interval logging_steps log_freq log_steps",
    "train.wandb": "project wandb_project use_wandb",
    "eval.every": "eval_every eval_interval eval_steps validation_steps val_check_interval",
    "eval.samples": "num_samples sample_prompts sample_every",
    "data.rows": "batch_size global_batch_size batch per_device_batch_size bs train_batch_size",
    "data.tokens": "seq_len seq_length max_seq_len sequence_length max_length context_length "
    "max_tokens block_size",
    "data.source": "dataset data_path train_data data_dir dataset_path train_path",
    "data.held_out_share": "validation_split val_split test_size eval_split val_fraction",
    "data.workers": "num_workers dataloader_num_workers",
    "data.dropout": "cfg_dropout cond_dropout condition_dropout uncond_prob",
    "loss.timestep_shift": "shift time_shift noise_shift",
    "loss.flow_weight": "mse_weight image_weight image_loss_weight",
    "loss.ce_weight": "text_weight text_loss_weight lm_weight",
    "model.variant": "model_name model_size architecture arch",
    "model.dtype": "precision mixed_precision bf16 fp16 compute_dtype",
    "model.remat": "gradient_checkpointing activation_checkpointing recompute",
    "model.llm.width": "hidden_size d_model dim embed_dim hidden_dim",
    "model.llm.layers": "num_layers n_layers depth num_hidden_layers n_layer",
    "model.llm.heads": "num_heads n_heads num_attention_heads n_head",
    "model.llm.kv_heads": "num_kv_heads num_key_value_heads n_kv_heads",
    "model.llm.mlp": "intermediate_size ffn_dim mlp_dim",
    "model.llm.vocab": "vocab_size vocabulary",
    "init_from": "pretrained pretrained_model checkpoint load_from finetune_from model_path "
    "init_checkpoint pretrained_path",
    "resume_from": "resume resume_from_checkpoint",
    "mesh.fsdp": "fsdp_size sharding zero",
    "mesh.tensor": "tp tensor_parallel model_parallel",
    "mesh.context": "cp sp context_parallel sequence_parallel",
    "mesh.data": "dp data_parallel replicas",
}
_KEYS = {_plain: key for key, names in _NAMES.items() for _plain in map(str, names.split())}


def meant(name: str) -> list[str]:
    """The key that a name of other codes means, if it is known: `batch_size` -> `data.rows`."""
    joined = {known.replace("_", ""): key for known, key in _KEYS.items()}
    key = joined.get(name.lower().replace("_", "").replace("-", ""))
    return [key] if key else []
