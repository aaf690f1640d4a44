"""The limits of a server that strangers may reach."""

from dataclasses import dataclass, field

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class ServeSettings:
    """What a server allows. Sizes are bytes, times are seconds."""

    n: int = 16  # samples of a search that names no number
    max_tokens: int = 256  # sampled tokens of a chain that names no number
    most_tokens: int = 4096  # sampled tokens of a chain at most
    most_samples: int = 64  # samples of a request, and chains of one to score, at most
    queue: int = 256  # requests in progress at most, those that wait for the models included
    most_body: int = 32 * MEGABYTE
    most_bodies: int = 512 * MEGABYTE  # of all requests in progress together, unfinished bodies included
    unfinished: int = 4  # bodies that are still being sent at most, as a multiple of `queue`
    body_seconds: float = 20.0  # in which a body, or the next megabyte of it, must be there
    send_seconds: float = 60.0  # in which a client must take what it is sent
    most_pictures: int = 16  # of a request
    most_picture: int = 16 * MEGABYTE  # of one file
    most_pixels: int = 32_000_000  # of one picture
    decode_seconds: float = 10.0  # of one picture
    kept_pictures: int = 256 * MEGABYTE  # files of pictures that no request uses any more
    http_pictures: bool = False  # pictures are fetched from http and https addresses too
    fetch_seconds: float = 20.0  # of one picture, redirects included
    keys: tuple[str, ...] = field(default=(), repr=False)  # any of them opens; none: no key is asked for
    page: bool = True  # the playground at /
    own_host: str = ""  # only requests addressed to this name, or to this machine by one of its own; "": to any

    def __post_init__(self) -> None:
        for name in ("n", "max_tokens", "most_samples", "queue", "most_body"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if self.n > self.most_samples:
            raise ValueError(f"n is {self.n}, and a request may have {self.most_samples} samples; raise --most-samples")
        if self.max_tokens > self.most_tokens:
            raise ValueError(f"max_tokens is {self.max_tokens}; give at most {self.most_tokens}")
        if any(not key.isascii() or not key.isprintable() or " " in key for key in self.keys):
            raise ValueError("a key has a character that no header takes; use letters, digits and - . _ ~ + / =")
