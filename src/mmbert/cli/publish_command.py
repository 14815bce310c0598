"""Command `publish`: the checkpoints of a run as revisions, in a folder or on the hub."""

import re
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cli.app import app, console_for_output, examples, refuse_given
from mmbert.command_line.values import parse_output_folder, parse_path
from mmbert.errors import ArgumentError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def _parse_repository(value: str) -> str:
    if not _REPOSITORY.fullmatch(value):
        raise typer.BadParameter(f"{value!r} is not of the form OWNER/NAME")
    return value


def _parse_license(value: str) -> str:
    if not _LICENSE.fullmatch(value):
        raise typer.BadParameter(f"{value!r} is not a name such as apache-2.0, mit or other")
    return value


@app.command(
    epilog=examples(
        "mmbert publish my_run my_publication --data my_shards",
        "mmbert publish my_run --repository me/my-model --data my_shards --license mit --dry-run",
        "mmbert publish my_run --repository me/my-model --data my_shards --license mit",
        "mmbert publish my_run my_publication --without-int8",
    )
)
def publish(
    run: Annotated[Path, typer.Argument(parser=parse_path, help="Run folder, or a variant's.")],
    out: Annotated[
        Path | None,
        typer.Argument(
            parser=parse_output_folder,
            help="Folder to publish to, without a network: OUT/step-… for each checkpoint, and the"
            " link OUT/main to the newest.",
        ),
    ] = None,
    repository: Annotated[
        str | None,
        typer.Option(
            parser=_parse_repository,
            metavar="OWNER/NAME",
            help="Repository on the hub to publish to: a tag step-… for each checkpoint, and main"
            " for the newest. Log in with `hf auth login`, or set HF_TOKEN.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            parser=parse_path,
            help="Shards of the run, whose held-out texts the int8 graph is checked on.",
        ),
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license",
            parser=_parse_license,
            metavar="NAME",
            help="License for the model card, as the hub names it [default: not stated].",
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as a private one.")
    ] = False,
    without_onnx: Annotated[
        bool, typer.Option("--without-onnx", help="Leave out both ONNX graphs.")
    ] = False,
    without_int8: Annotated[
        bool, typer.Option("--without-int8", help="Leave out the int8 graph, which needs --data.")
    ] = False,
    allow_causal: Annotated[
        bool,
        typer.Option("--allow-causal", help="Publish checkpoints of causal phases too."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be published, and write nothing.")
    ] = False,
) -> None:
    """Publish every kept checkpoint of a run as a revision: weights, ONNX graphs, model card.

    Each appears only as a whole, once logits, float32 graph and int8 graph are checked. After an
    interruption, the same command goes on; published revisions are left as they are.
    """
    from mmbert.hub.publishing.local_folder import LocalFolder
    from mmbert.hub.publishing.place import Place
    from mmbert.hub.publishing.publish import PublishOptions, plan_publication
    from mmbert.hub.publishing.publish import publish as publish_revisions
    from mmbert.hub.publishing.repository import Repository

    if (out is None) == (repository is None):
        raise ArgumentError(
            "a run is published to either a folder or a repository",
            remedy="give OUT, or --repository OWNER/NAME",
        )
    if out is not None:
        refuse_given({"--private": private}, "a folder is published to", "leave it out")
    if without_onnx:
        refuse_given(
            {"--without-int8": without_int8}, "--without-onnx leaves out both", "leave it out"
        )
    place: Place
    if out is not None:
        place = LocalFolder(out)
    else:
        assert repository is not None
        place = Repository(repository, private=private)
    options = PublishOptions(
        data, not without_onnx, not (without_int8 or without_onnx), license_, allow_causal
    )
    plan = plan_publication(run, place, options)
    if dry_run:
        from mmbert.hub.publishing.plan_table import plan_table

        console_for_output().print(plan_table(plan, place))
        return
    publish_revisions(plan, place, lambda line: print(line, flush=True))
