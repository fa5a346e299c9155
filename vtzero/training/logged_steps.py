"""Which steps of a run are written down, and whose completions are kept or shown. Knows the config alone.

They depend on the step and nothing else, so that a run that is resumed writes what an uninterrupted one does.
"""

from vtzero.config import RunConfig

SHOWN_EVERY = 10
"""Every tenth logged step shows a group in TensorBoard, so that the event files of a long run stay small."""


def is_logged(config: RunConfig, step: int) -> bool:
    """Whether a step's metrics are written down."""
    return step % config.logging_steps == 0 or step == config.max_steps


def is_printed(config: RunConfig, step: int) -> bool:
    """Whether a completion of a step is printed."""
    return config.print_completions_steps > 0 and step % config.print_completions_steps == 0


def keeps_completions(config: RunConfig, step: int) -> bool:
    """Whether anything wants to have a step's completions."""
    return (config.log_completions and is_logged(config, step)) or is_printed(config, step)


def is_shown(config: RunConfig, step: int) -> bool:
    """Whether TensorBoard has completions of a logged step: of the 1st, 11th, 21st … and the last."""
    tenth = step // config.logging_steps % SHOWN_EVERY == 1 % SHOWN_EVERY
    return tenth or is_printed(config, step) or step == config.max_steps
