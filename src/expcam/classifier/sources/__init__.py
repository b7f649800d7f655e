"""Where classifiers come from: what their names stand for, and files of weights and labels."""

DEFAULT = "efficientnet_lite0"
BUNDLED = "bundled"
TIMM, TRANSFORMERS = "timm/", "hf/"
FORMS = (
    f"{DEFAULT} or {BUNDLED}, which need no network; a name of torchvision's; {TIMM}NAME; "
    f"{TRANSFORMERS}NAME-OR-FOLDER; package.module:function"
)
"""What a model's name can be."""
