"""Reading the file that ``--config`` names: YAML 1.2 in UTF-8, one mapping.

A run writes its own settings with the same keys, so the ``config.yaml`` of a run can be
given to ``--config`` to train the same again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    create_model,
)
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode

from handful.cli.settings import (
    Settings,
    check_data,
    check_device,
    check_loss,
    check_loss_average,
    check_optimizer,
    check_schedule,
)
from handful.errors import ArgumentError, ConfigError, unknown_choice
from handful.runs.yaml_text import MOST_BYTES, load_yaml
from handful.train.choices import (
    Choice,
    check_batch_size,
    check_epochs,
    check_lr,
    check_num_workers,
    check_seed,
)
from handful.train.options import OPTIONS, Option, check_metrics
from handful.train.recipe import check_last_batch, check_worker_type

CONFIG_FORMAT = 1
"""Version of the format that this module reads."""


def _check_format(value: object, *, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name} must be {CONFIG_FORMAT}; got {value!r}.")
    if value > CONFIG_FORMAT:
        raise ArgumentError(
            f"{name} must be {CONFIG_FORMAT}; got {value}. "
            "A newer handful wrote this file: upgrade handful to read it."
        )
    return value


def _check_text(value: object, *, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise ArgumentError(f"{name} must be a name; got {value!r}.")
    return value


def _named(check: Callable[..., Any], name: str) -> BeforeValidator:
    def run(value: object) -> Any:
        return None if value is None else check(value, name=name)

    return BeforeValidator(run)


def _number(check: Callable[..., Any], name: str, word: str = "") -> BeforeValidator:
    """Check a number that is written as one: ``5``, not ``"5"``."""

    def run(value: object) -> Any:
        if isinstance(value, str) and value != word:
            also = f" or {word!r}" if word else ""
            raise ArgumentError(
                f"{name} must be a number{also}; got the text {value!r}."
            )
        return None if value is None else check(value, name=name)

    return BeforeValidator(run)


def _choice(check: Callable[[Any], Choice]) -> BeforeValidator:
    def run(value: object) -> Choice | None:
        return None if value is None else check(value)

    return BeforeValidator(run)


def _option(name: str, option: Option) -> BeforeValidator:
    if option.is_number:
        return _number(option.check, name, option.word)
    return _named(option.check, name)


class _RecipeKeys(BaseModel):
    """The keys of what a recipe has fields for, and of where and how it is trained."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    format: Annotated[int | None, _number(_check_format, "format")] = None
    recipe: Annotated[str | None, _named(_check_text, "recipe")] = None
    variant: Annotated[str | None, _named(_check_text, "variant")] = None
    data: Annotated[Any, _named(check_data, "data")] = None
    epochs: Annotated[int | None, _number(check_epochs, "epochs")] = None
    batch_size: Annotated[
        int | str | None, _number(check_batch_size, "batch_size", "full")
    ] = None
    last_batch: Annotated[str | None, _named(check_last_batch, "last_batch")] = None
    num_workers: Annotated[int | None, _number(check_num_workers, "num_workers")] = None
    worker_type: Annotated[str | None, _named(check_worker_type, "worker_type")] = None
    lr: Annotated[float | None, _number(check_lr, "lr")] = None
    optimizer: Annotated[Choice | None, _choice(check_optimizer)] = None
    schedule: Annotated[Choice | None, _choice(check_schedule)] = None
    seed: Annotated[int | None, _number(check_seed, "seed")] = None
    device: Annotated[str | None, _named(check_device, "device")] = None
    loss: Annotated[Choice | None, _choice(check_loss)] = None
    metrics: Annotated[tuple[str, ...] | None, _named(check_metrics, "metrics")] = None
    loss_average: Annotated[str | None, _named(check_loss_average, "loss_average")] = (
        None
    )


_OPTIONS = {name: option for name, option in OPTIONS.items() if not option.is_code}
_OPTION_KEYS: dict[str, Any] = {
    name: (Annotated[Any, _option(name, option)], None)
    for name, option in _OPTIONS.items()
}

ConfigFile = create_model("ConfigFile", __base__=_RecipeKeys, **_OPTION_KEYS)
"""The keys of a configuration file; null, or no key, leaves it to the recipe, but for
``num_threads``, where null is torch's own number."""


def read_config(path: Path) -> Settings:
    """Read a configuration file.

    Args:
        path: A file in UTF-8 with one YAML 1.2 mapping; see `ConfigFile` for its keys.

    Returns:
        Its settings.

    Raises:
        ConfigError: The file cannot be read, or its content cannot be used. The message
            names the file and, where it is known, the line.
    """
    text = _read_text(path)
    data, lines = _parse(path, text)
    for key in data:
        if key not in ConfigFile.model_fields:
            error = unknown_choice("a key", key, ConfigFile.model_fields)
            raise _at(path, lines.get(str(key)), error)
    try:
        config = ConfigFile.model_validate(data)
    except ValidationError as error:
        raise _describe(path, lines, error) from None
    own = {name: getattr(config, name) for name in _RecipeKeys.model_fields}
    del own["format"]
    said = {name: getattr(config, name) for name in data if name in _OPTIONS}
    options = {
        name: value
        for name, value in said.items()
        if value is not None or _OPTIONS[name].has_null
    }
    return Settings(**own, options=options)


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"--config must name a file that exists; got {str(path)!r}."
        ) from None
    except IsADirectoryError:
        remedy = _inside(path)
        raise ConfigError(
            f"--config must name a file; got the folder {str(path)!r}.{remedy}"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"--config must name a file that can be read; got {str(path)!r}: "
            f"{error.strerror}."
        ) from None
    if len(raw) > MOST_BYTES:
        raise ConfigError(
            f"{path} must be a configuration of at most 64 KiB; it is larger. "
            "Is it the right file?"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}, line {line}: the text must be UTF-8; got the byte "
            f"0x{raw[error.start]:02x}. Save the file as UTF-8."
        ) from None


def _inside(folder: Path) -> str:
    inner = folder / "config.yaml"
    return f" Did you mean {str(inner)!r}?" if inner.is_file() else ""


def _parse(path: Path, text: str) -> tuple[dict[Any, Any], dict[str, int]]:
    """Return the mapping, and the line of each of its keys."""
    try:
        data, node = load_yaml(text)
    except MarkedYAMLError as error:
        raise _describe_yaml(path, text, error) from None
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} must be YAML: {reason}.") from None
    except RecursionError:
        raise ConfigError(
            f"{path} must be one flat mapping; it is nested too deeply."
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} has a value that is not valid: {error}.") from None
    if node is None or data is None:
        raise ConfigError(
            f"{path} must hold settings, such as `recipe: wine`; it is empty."
        )
    if not isinstance(data, dict) or not isinstance(node, MappingNode):
        raise ConfigError(
            f"{path}, line {node.start_mark.line + 1}: the settings must be a mapping, "
            f"such as `epochs: 10`; got a {_kind(data)}."
        )
    return data, {str(key.value): key.start_mark.line + 1 for key, _ in node.value}


def _kind(value: object) -> str:
    if isinstance(value, list):
        return "list"
    return f"single value, {value!r}"


def _describe_yaml(path: Path, text: str, error: MarkedYAMLError) -> ConfigError:
    parts = [error.problem or error.context]
    if str(error.problem).startswith("but ") and error.context:
        parts.insert(0, error.context)
    problem = " ".join(" ".join(map(str, parts)).split())
    lines = text.splitlines()
    for mark in (error.problem_mark, error.context_mark):
        if mark is not None and mark.line < len(lines):
            excerpt = lines[mark.line].rstrip()
            shown = excerpt if len(excerpt) <= 60 else excerpt[:57] + "..."
            return ConfigError(
                f"{path}, line {mark.line + 1}: {problem}; got {shown!r}. "
                f"{_yaml_remedy(error)}"
            )
    return ConfigError(f"{path} must be YAML: {problem}. {_yaml_remedy(error)}")


def _yaml_remedy(error: MarkedYAMLError) -> str:
    if isinstance(error, DuplicateKeyError):
        return "Remove one of the two."
    if "\\t" in str(error.problem):
        return "Indent with spaces instead of tabs."
    return "Correct the YAML there."


def _describe(path: Path, lines: dict[str, int], error: ValidationError) -> ConfigError:
    first = error.errors(include_url=False)[0]
    key = str(first["loc"][0])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ArgumentError):
        return _at(path, lines.get(key), cause)
    message = f"{key} cannot be used: {first['msg']}; got {first['input']!r}."
    return _at(path, lines.get(key), ArgumentError(message))


def _at(path: Path, line: int | None, error: ArgumentError) -> ConfigError:
    where = f"{path}, line {line}" if line is not None else str(path)
    return ConfigError(f"{where}: {error}")
