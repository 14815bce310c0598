"""Download of the missing wheels of a machine without a network."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mmbert.errors import OutputError, PackageError, UserError
from mmbert.wheels.folder import Contents, is_pure, read_folder
from mmbert.wheels.pep import requirements, utils, version
from mmbert.wheels.programs import find_uv, run
from mmbert.wheels.resolution import Package, resolve
from mmbert.wheels.target import Target

_MEBIBYTE = 1 << 20
# Downloads above this size show a progress bar.
_PROGRESS_BAR_BYTES = 32 * _MEBIBYTE
_CUDA = ("torch", "triton", "nvidia-", "cuda-")


def collect(
    folder: Path,
    wanted: Iterable[requirements.Requirement],
    target: Target,
    present: dict[str, version.Version],
) -> None:
    """Download the wheels of `wanted` that `target` lacks into `folder`, keeping existing ones.

    Args:
        folder: destination; created if missing.
        wanted: requirements; dependencies are included.
        target: machine to collect for.
        present: packages on that machine; those that satisfy a requirement are not collected.

    Raises:
        UserError: a package has no wheel for the machine and cannot be built here, the registry is
            unreachable, the disk is too small, or the folder is not writable. Names the packages.
    """
    contents = _writable(folder, target)
    packages = resolve(find_uv(), wanted, target, present, contents.wheels.values())
    if not packages:
        print(f"{folder} is complete: {_summary(folder)}")
        return
    total = sum(package.size or 0 for package in packages)
    print(f"for {target}: {len(packages)} packages to collect, {describe_size(packages)}")
    free = shutil.disk_usage(folder).free
    if free < total:
        raise OutputError(
            f"not enough space for {folder}: {_bytes(free)} free, {_bytes(total)} needed",
            remedy="give a folder on a larger disk with DIR=",
        )
    failures = []
    for number, package in enumerate(packages, start=1):
        kind = "" if package.wheel else ", from source"
        words = f"{package.name} {package.version} ({describe_size([package])}{kind})"
        print(f"[{number}/{len(packages)}] {words}", flush=True)
        try:
            _fetch(package, folder, target)
        except UserError as error:
            print(f"  {error.message}", flush=True)
            failures.append(error)
    print(f"{folder}: {_summary(folder)}")
    if failures:
        raise PackageError(
            f"{len(failures)} of {len(packages)} packages are missing in {folder}:\n  "
            + "\n  ".join(error.message for error in failures),
            remedy="repeat the command to retry only these; build packages without a wheel on a "
            "machine like the target (pip wheel --no-deps NAME) and copy them into the folder"
            if any("registry cannot be reached" not in error.remedy for error in failures)
            else failures[0].remedy + "; repeat the command to continue",
        )


def _writable(folder: Path, target: Target) -> Contents:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}",
            remedy="give another folder with DIR=",
        ) from None
    contents = read_folder(folder, target.tags)
    for path in contents.damaged.values():
        print(f"{path.name} is damaged; collecting it again")
        path.unlink()
    return contents


def _fetch(package: Package, folder: Path, target: Target) -> None:
    """Add one wheel to `folder` atomically, replacing other versions of the package."""
    exact = f"{package.name}=={package.version}"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # On the same file system, so that the wheel can be renamed into place.
    with tempfile.TemporaryDirectory(prefix=".collecting-", dir=folder) as place:
        if package.wheel:
            line = exact + (f" --hash=sha256:{package.sha256}" if package.sha256 else "")
            asked = Path(place) / "wanted.txt"
            asked.write_text(line + "\n", encoding="utf-8")
            options = ["--no-deps", *target.pip_options, f"--dest={place}", f"-r{asked}"]
            run(
                [*pip, "download", *options], exact, shown=(package.size or 0) > _PROGRESS_BAR_BYTES
            )
        else:
            options = ["--no-deps", f"--no-binary={package.name}", f"--wheel-dir={place}"]
            # DeepSpeed compiles its CUDA operations at run time; build none here.
            run([*pip, "wheel", *options, exact], f"{exact} from source", {"DS_BUILD_OPS": "0"})
        made = next(Path(place).glob("*.whl"))
        if not package.wheel and not is_pure(made):
            raise PackageError(
                f"{exact} has no wheel for {target}, and the one built from source here "
                f"({made.name}) is specific to this platform",
                remedy="build it on a machine like the target",
            )
        for stale in folder.glob("*.whl"):
            try:
                name, number, _, wheel_tags = utils.parse_wheel_filename(stale.name)
            except utils.InvalidWheelFilename:
                continue
            same = (name, str(number) == package.version) == (package.name, False)
            if same and not wheel_tags.isdisjoint(target.tags):
                stale.unlink()
        made.replace(folder / made.name)


def describe_size(packages: list[Package]) -> str:
    """Describe the total size of packages, naming those of unknown size."""
    known = [package for package in packages if package.size is not None]
    if not known:
        return "size unknown"
    words = _bytes(sum(package.size or 0 for package in known))
    cuda = [package.size or 0 for package in known if package.name.startswith(_CUDA)]
    if len(packages) > 1 and cuda:
        words += f" (torch and its CUDA libraries: {_bytes(sum(cuda))})"
    if unknown := [package.name for package in packages if package.size is None]:
        words += f" plus {', '.join(unknown)} of unknown size"
    return words


def _bytes(number: int) -> str:
    if number < _MEBIBYTE:
        return f"{-(-number // 1024)} KiB"
    return f"{number / _MEBIBYTE:,.1f} MiB"


def _summary(folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.glob("*.whl")]
    return f"{len(sizes)} wheels, {_bytes(sum(sizes))}"
