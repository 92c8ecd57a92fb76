"""API keys: who may call, and which endpoints. The service keeps only the SHA-256 of a key.

A key is 256 random bits, so its digest needs no salt and no slow hash: nobody can try them all.
"""

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from contract.setting_error import SettingError

# use: all but the rest; heads: fit and delete heads; metrics: /metrics; admin: everything, and the jobs of every key.
SCOPES = ("use", "heads", "metrics", "admin")
_PREFIX = "neuron_"  # so that a key found in a file shows what it opens
_ENTRY = re.compile(r"([A-Za-z0-9_.-]{1,64}):([a-z+]+):([0-9a-f]{64})")
_TAG_BYTES = 9  # two owners share a tag once in 2^72 jobs


@dataclass(frozen=True)
class Key:
    """A key as the service keeps it. Keys of one name belong to one owner: for example the old one and the new one."""

    name: str
    scopes: frozenset[str]
    digest: bytes  # SHA-256 of the key

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    def owned(self, job_id: str) -> str:
        """The id followed by a tag of the job's owner, so that the owner need not be kept anywhere else."""
        tag = hashlib.sha256(f"{job_id}:{self.name}".encode()).digest()[:_TAG_BYTES]
        return job_id + urlsafe_b64encode(tag).decode()

    def may_see(self, job_id: str) -> bool:
        # An invented id may carry any tag, but there is no job of that id.
        length = len(self.owned(""))
        return "admin" in self.scopes or self.owned(job_id[:-length]) == job_id


def owner(key: Key | None) -> str:
    """Whose jobs those of this key are; without keys all are of one."""
    return "" if key is None else key.name


def generate() -> tuple[str, str]:
    """(key, its SHA-256 in hexadecimal)."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def entry(name: str, scopes: Sequence[str], digest: str) -> str:
    """A key's entry in NEURON_API_KEYS. Raises SettingError."""
    text = f"{name}:{'+'.join(scopes)}:{digest}"
    parse(text)
    return text


def parse(text: str) -> list[Key]:
    """The keys that a value of NEURON_API_KEYS names. Raises SettingError, which never quotes what may be a key."""
    keys = []
    for number, part in enumerate(filter(None, map(str.strip, re.split(r"[,\n]", text))), start=1):
        found = _ENTRY.fullmatch(part)
        if found is None:
            raise SettingError(
                f"NEURON_API_KEYS, entry {number}, is not NAME:SCOPES:SHA256 with 64 hexadecimal digits, as in "
                "`alice:use:ab12...`; `neuron key new` prints one"
            )
        scopes = frozenset(found[2].split("+"))
        if unknown := scopes - set(SCOPES):
            raise SettingError(f"NEURON_API_KEYS, entry {number}: no scope {min(unknown)!r}, only {', '.join(SCOPES)}")
        keys.append(Key(found[1], scopes, bytes.fromhex(found[3])))
    return keys


def find(keys: Sequence[Key], presented: str) -> Key | None:
    """The key that was presented, if it is one of these. The time that this takes depends on none of them."""
    digest = hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest()
    match = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            match = key
    return match
