"""What jobs do with the values of a site: the bash file that they source, and words around Python.

Apptainer and Pyxis stand between srun and Python; the scripts of slurm/ put `site_srun` after srun
and `site_inside` before Python.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from mmbert.cluster.site import Container, Site
from mmbert.errors import ArgumentError


def srun_options(container: Container | None) -> tuple[str, ...]:
    """Return srun's options for the container: those of Pyxis."""
    if container is None or container.kind != "pyxis":
        return ()
    mounts = (f"--container-mounts={','.join(container.binds)}",) if container.binds else ()
    return (f"--container-image={container.image}", *mounts, *container.options)


def container_words(container: Container | None) -> tuple[str, ...]:
    """Return the words before Python: those of Apptainer."""
    if container is None or container.kind == "pyxis":
        return ()
    gpu = (f"--{container.gpu}",) if container.gpu else ()
    binds = (word for bind in container.binds for word in ("--bind", bind))
    return (container.kind, "exec", *gpu, *binds, *container.options, container.image)


def site_script(site: Site) -> str:
    """Return the text of the file that every job sources; `refuse` is a function of common.bash."""
    modules = (
        f"module load {shlex.quote(name)} || refuse {shlex.quote(f'module load {name} failed')} "
        "'correct `modules` in the site file and submit again'"
        for name in site.modules
    )
    environment = (
        f"export {name}={shlex.quote(value)}" for name, value in site.environment.items()
    )
    container = site.container
    lines = [
        "# Written by `mmbert submit` from the site file; the jobs of the chain source it.",
        "# shellcheck shell=bash disable=SC2034",
        "set +u # modules and environments may use variables that are not set",
        *modules,
        *site.setup,
        "set -u",
        *environment,
        f"site_srun=({shlex.join(srun_options(container))})",
        f"site_inside=({shlex.join(container_words(container))})",
        f"site_python={shlex.quote(container.python if container else '')}",
    ]
    return "".join(f"{line}\n" for line in lines)


def check_binds(container: Container | None, paths: Sequence[Path]) -> None:
    """Check that Pyxis mounts the folders of a chain, which Apptainer may mount by default.

    Raises:
        ArgumentError: a path would not be seen inside under its name.
    """
    if container is None or container.kind != "pyxis":
        return
    seen = [parts[0] for bind in container.binds if len(set((parts := bind.split(":"))[:2])) == 1]
    for path in paths:
        if not any(path.is_relative_to(folder) for folder in seen):
            raise ArgumentError(
                f"container.binds of the site file has no folder above {path}: "
                f"{', '.join(seen) or 'nothing'} is seen inside under its own name",
                remedy=f"add {path.parent} to container.binds",
            )
