"""What every process's settings have in common: the prefix, the shared names, and the refusal of unknown names.

A process's own settings begin with its name (`NEURON_API_...`, `NEURON_WORKER_...`), so that each can tell a
misspelt name from one that is meant for the other process.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, RedisDsn, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from contract.names import did_you_mean
from contract.redis_url import RedisUrl, masked
from contract.setting_error import SettingError

PREFIX = "NEURON_"
PROCESSES = ("api", "worker")
# Read by the tests alone.
_ELSEWHERE = {"NEURON_OPENAI_WEIGHTS"}


# What Kubernetes and Docker's links tell a container of a service whose name begins with ours, such as `neuron-api`.
_SERVICE_LINK = re.compile(
    r"NEURON(_[A-Z0-9_]+)?_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_LINKED_PORT = re.compile(r"(tcp|udp|sctp)://")


class UnknownSettingError(SettingError):
    """An environment variable looks like a setting but is not one, or is not one any more."""


class ProcessSettings(BaseSettings):
    """Settings from environment variables `NEURON_<FIELD>`.

    Raises SettingError for a value that is not valid, UnknownSettingError for a name that is not known.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)
    process: ClassVar[str]
    # Former name -> present name, both in full, of the settings of this process. A former name is refused.
    renamed: ClassVar[Mapping[str, str]] = {}

    redis_url: RedisUrl = Field(
        RedisDsn("redis://127.0.0.1:6379/0"),
        description="Redis for queue, results and streams: `redis://`, `rediss://` for TLS, `unix:///path?db=0`, or "
        "`redis+sentinel://HOST:PORT/0` with the `HOST:PORT` of all Sentinels, separated by commas, and `?master=NAME`."
        " Unset under `neuron up`: an embedded one.",
    )
    checkpoint_dir: Path | None = Field(
        None,
        description="Volume of checkpoints; its `LATEST` is served. Unset, or while nothing is published there: the "
        "model shipped with the package.",
    )
    insecure: bool = Field(
        False, description="Let the gateway listen beyond this machine without keys: whoever reaches it may use it."
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="Lines of the log; with `json` every job that ends has one, with its sizes and durations."
    )
    data_dir: Path = Field(Path("data"), description="Where the embedded Redis of `neuron up` keeps its data.")

    def __init__(self, **values: Any) -> None:
        self._forget_service_links()
        self._refuse_unknown()
        try:
            super().__init__(**values)
        except ValidationError as error:
            # Values are left out because some are secrets.
            faults = [f"{PREFIX}{str(fault['loc'][0]).upper()}: {fault['msg']}" for fault in error.errors()]
            raise SettingError("; ".join(dict.fromkeys(faults))) from None

    @classmethod
    def _forget_service_links(cls) -> None:
        """Take them out of the environment of this process, where they would be taken for settings."""
        for name, value in list(os.environ.items()):
            if _SERVICE_LINK.fullmatch(name) or (
                name.startswith(PREFIX) and name.endswith("_PORT") and _LINKED_PORT.match(value)
            ):
                del os.environ[name]

    @classmethod
    def _refuse_unknown(cls) -> None:
        known = {PREFIX + name.upper() for name in cls.model_fields}
        others = tuple(f"{PREFIX}{process.upper()}_" for process in PROCESSES if process != cls.process)
        for name in sorted(os.environ):
            if name.startswith(PREFIX) and not name.startswith(others) and name not in known | _ELSEWHERE:
                if name in cls.renamed:
                    raise UnknownSettingError(f"{name} is not a setting any more: it is now {cls.renamed[name]}")
                near = f"{did_you_mean(name, known)} (`neuron settings` lists all)"
                raise UnknownSettingError(f"{name} is not a setting of {cls.process}{near}")

    def effective(self) -> dict[str, str]:
        """Every setting and its value in force; secrets and the password of a URL are masked."""
        shown = {PREFIX + name.upper(): str(value) for name, value in self}
        shown[PREFIX + "REDIS_URL"] = masked(self.redis_url)
        return shown

    def changed(self) -> dict[str, str]:
        """Those in force that are not the default, for the log."""
        shown = self.effective()
        names = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        return {PREFIX + name.upper(): shown[PREFIX + name.upper()] for name in names}
