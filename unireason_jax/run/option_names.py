"""What other codes call what is asked of a sampler, in fields of requests and in flags."""

import difflib
from collections.abc import Collection

_NAMES = {
    "caption question instruction": "prompt",
    "text": "prompt",
    "key index uid": "id",
    "images input_image image_path picture source": "image",
    "random_seed": "seed",
    "num_timesteps num_steps steps num_inference_steps": "timesteps",
    "cfg cfg_scale guidance_scale cfg_text_scale text_scale": "guidance",
    "cfg_img_scale image_scale image_guidance_scale": "image_guidance",
    "height width resolution image_size shape": "size",
    "timestep_shift": "shift",
    "sampler scheduler sampling_method": "solver",
    "max_length max_tokens max_new_tokens max_think_token_n": "max_text",
}
OURS = {theirs: ours for names, ours in _NAMES.items() for theirs in names.split()}
"""Our names by those that others use."""

_NO_NEGATIVE = (
    "'negative_prompt' is not supported: guidance leads away from the same conversation without "
    "its text, as the models were trained (say in the prompt what shall not be there)"
)


def refusal(name: str) -> str:
    """Why there is no such option, where that is known; else empty."""
    return _NO_NEGATIVE if name == "negative_prompt" else ""


def meant(name: str, known: Collection[str]) -> str | None:
    """Of the known names the one that an unknown name stands for, or is nearly."""
    ours = OURS.get(name, name)
    if ours in known:
        return ours
    return next(iter(difflib.get_close_matches(ours.lower(), known, n=1)), None)
