"""Commands that are not recipes: dataclasses whose fields are flags, with a method `run`.

torch is imported inside `run`, so that the list of commands appears immediately.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparseq.errors import argument_error, require


@dataclass(frozen=True)
class Compress:
    """Convert a saved network with zeros to sparse layers and save it."""

    source: Path
    """A file saved by sparseq."""
    target: Path
    """The file to write."""
    model: str | None = None
    """Function that builds a network of your own classes: path/to/file.py:function."""
    policy: Literal["measured", "auto", "sparse"] | None = None
    """measured (each layer in the form that is faster here), auto (by tables) or sparse (all);
    default: measured where the shape of an example is known, else auto."""
    batch: int = 64
    """Batch size for which measured and auto decide."""
    shape: tuple[int, ...] = ()
    """Shape of one example, such as 3 32 32, for which they decide (default: as in the file)."""
    threads: int = 1
    """CPU threads for which they decide."""
    overwrite: bool = False
    """Replace an existing file."""

    def __post_init__(self) -> None:
        for name in ("batch", "threads"):
            value = getattr(self, name)
            require(value >= 1, "compress", name, "must be at least 1", value)

    def run(self) -> None:
        """Write the file and print the sizes."""
        if self.target.exists() and not self.overwrite:
            raise FileExistsError(f"{self.target} exists; --overwrite replaces it")
        import torch

        from sparseq.files.model_file import save
        from sparseq.models import restore
        from sparseq.recipes.results import ratio_text

        network = restore(self.source, self.model)
        torch.set_num_threads(self.threads)
        small = self.compressed(network)
        before = self.source.stat().st_size
        save(small, self.target, overwrite=self.overwrite)
        after = self.target.stat().st_size
        ratio = ratio_text(before / after, "smaller", "larger")
        print(f"{self.target}: {after:,} bytes, from {before:,} ({ratio})")

    def compressed(self, network: Any) -> Any:
        """The network as the policy wants it, measured on random examples."""
        import torch

        from sparseq.compression.sparsify import compress
        from sparseq.compression.table_rule import recorded_shape

        shape = self.shape or recorded_shape(network)
        policy = self.policy or ("measured" if shape else "auto")
        if policy != "measured":
            return compress(network, policy=policy, batch=self.batch, in_shape=shape)
        if shape is None:
            rule = "is required by policy measured, as the file records no shape"
            raise argument_error("compress", "--shape", rule, "none")
        x = torch.randn(self.batch, *shape, generator=torch.Generator().manual_seed(0))
        dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), x.dtype)
        return compress(network, policy=policy, example=x.to(dtype))


@dataclass(frozen=True)
class Info:
    """Show the size of every part of a file."""

    file: Path
    """A file saved by sparseq."""

    def run(self) -> None:
        """Print the table."""
        from rich.console import Console
        from rich.table import Table

        from sparseq.files.contents import describe_file

        rows = describe_file(self.file)
        total = sum(row.bytes for row in rows)
        table = Table(title=f"{self.file}: {total:,} bytes", title_justify="left")
        for heading in ("part", "bytes", "share", "encoding", "type", "shape"):
            justify: Any = "right" if heading in ("bytes", "share") else "left"
            table.add_column(heading, justify=justify, overflow="fold")
        for row in rows:
            table.add_row(
                row.name,
                f"{row.bytes:,}",
                f"{row.bytes / total:.1%}",
                row.encoding,
                row.dtype,
                " x ".join(map(str, row.shape)),
            )
        Console().print(table)


@dataclass(frozen=True)
class Profile:
    """Measure each layer of a network, dense and sparse."""

    network: str
    """A saved file, a registered model, or path/to/file.py:function."""
    model: str | None = None
    """Function that builds a saved network of your own classes: path/to/file.py:function."""
    shape: tuple[int, ...] = ()
    """Shape of one example, such as 1 28 28 (default: recorded in the file)."""
    data: str | None = None
    """Data set whose example shape is used (default for a model that is not a file: digits)."""
    algebra: str = "real"
    """real or quaternion, for a model that is not a file."""
    batch: int = 256
    """Examples per forward pass."""
    repeats: int = 20
    """Samples per median."""
    threads: int = 1
    """CPU threads."""
    device: str = "cpu"
    """Device on which to run."""
    seed: int = 0
    """Seed of the random examples, and of the weights of a model that is not a file."""

    def __post_init__(self) -> None:
        for name in ("batch", "threads"):
            require(
                getattr(self, name) >= 1, "profile", name, "must be at least 1", getattr(self, name)
            )
        positive = all(size >= 1 for size in self.shape)
        require(positive, "profile", "shape", "must have sizes of at least 1", self.shape)

    def run(self) -> None:
        """Print the input shape, its origin and the table."""
        import torch
        from rich.console import Console

        from sparseq.reports.profiling import profile

        torch.set_num_threads(self.threads)
        network, (shape, origin) = self.open_network()
        print(f"input: {' x '.join(map(str, (self.batch, *shape)))}, {origin}")
        generator = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.batch, *shape, generator=generator).to(self.device)
        Console().print(profile(network.to(self.device), x, repeats=self.repeats))

    def open_network(self) -> tuple[Any, tuple[tuple[int, ...], str]]:
        """The network, loaded or newly built, and the shape of an example with its origin."""
        from sparseq.data import find_dataset
        from sparseq.models import build, restore

        if self.network.endswith(".sparseq") or Path(self.network).is_file():
            network = restore(self.network, self.model)
            return network, self.requested_shape() or _recorded_shape(network)
        digits = (find_dataset("digits").in_shape, "from data set digits")
        shape, origin = self.requested_shape() or digits
        classes = find_dataset(self.data or "digits").num_classes
        return build(self.network, self.algebra, shape, classes, self.seed), (shape, origin)

    def requested_shape(self) -> tuple[tuple[int, ...], str] | None:
        """The shape set by the flags, and its origin."""
        from sparseq.data import find_dataset

        if self.shape:
            return self.shape, "from --shape"
        return (
            (find_dataset(self.data).in_shape, f"from data set {self.data}") if self.data else None
        )


def _recorded_shape(network: Any) -> tuple[tuple[int, ...], str]:
    """The shape recorded in a saved network."""
    from sparseq.compression.table_rule import recorded_shape

    shape = recorded_shape(network)
    if shape is None:
        rule = "is required, as the file records no shape (such as --shape 1 28 28)"
        raise argument_error("profile", "--shape", rule, "none")
    return shape, "recorded in the file"


@dataclass(frozen=True)
class Doctor:
    """Show versions, compilers, CPU features, cache and kernels, and run a self-test."""

    def run(self) -> bool:
        """Print the report; False if the self-test failed."""
        from sparseq.cli.doctor import print_report

        return print_report()
