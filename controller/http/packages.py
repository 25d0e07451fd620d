"""`/api/v1/packages` and `/api/v1/root`: what the repository holds, and what is put into it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

from anyio import to_thread
from litestar import Controller, Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import Stream

from controller.http.given import AfterName, Limit, TheBundleMaker, TheFleet, TheRepository
from controller.http.listing import listed
from controller.http.noting import about, does, nothing_changed
from controller.http.transfers import MAX_UPLOAD_BYTES, Spool, UploadOperation, received, spooled
from controller.http.views import (
    MAX_PAGE,
    Change,
    ChangedFile,
    ComparisonView,
    FoundReleases,
    ListedRelease,
    PushView,
    RetireWish,
    SiteWish,
    YankView,
    YankWish,
)
from controller.meant import did_you_mean
from controller.repository.comparing import Comparison, FileChange, difference
from controller.repository.moving import MAX_RELEASES
from controller.repository.package_repository import PackageRepository
from controller.repository.records import Imported, ReleaseRecord, Statistics
from controller.repository.retention import Retired, Rules
from schemas.errors import OperatorError, PublisherError, one_line
from schemas.names import SHA256_PATTERN, wrong_platform
from schemas.versions import parse

_PATTERN: Final = frozenset("*?")


class Packages(Controller):
    """Releases in the repository."""

    path = "/packages"
    tags = ("packages",)

    @post(
        "",
        summary="Store a package file",
        request_max_body_size=MAX_UPLOAD_BYTES,
        operation_class=UploadOperation,
        responses={
            200: ResponseSpec(PushView, description="The same content was there already", generate_examples=False)
        },
    )
    async def push(
        self,
        request: Request[Any, Any, Any],
        repository: TheRepository,
        spool: NamedDependency[Spool],
        bundle_maker: TheBundleMaker,
    ) -> Response[PushView]:
        """Take the bytes of a package file, as `flotilla build` makes it, verify, store and sign them."""
        begun = datetime.now(UTC)
        async with received(request, spool) as path:
            record = await to_thread.run_sync(repository.add, path)
        about(request, record.key)
        bundle_maker.want(record)
        new = record.created_at >= begun
        return Response(PushView(release=record, new=new), status_code=201 if new else 200)

    @get("", summary="Search the repository")
    async def search(
        self,
        repository: TheRepository,
        fleet: TheFleet,
        name: FromQuery[str | None] = None,
        version: Annotated[str | None, QueryParameter(description="a version range, e.g. ^1.2")] = None,
        platform: FromQuery[str | None] = None,
        tag: FromQuery[list[str] | None] = None,
        channel: FromQuery[str | None] = None,
        since: FromQuery[datetime | None] = None,
        until: FromQuery[datetime | None] = None,
        yanked: Annotated[bool, QueryParameter(description="show those too that were yanked")] = False,
        after: FromQuery[str | None] = None,
        limit: Limit = 100,
    ) -> FoundReleases:
        """Releases that fit every condition, newest version of each package first."""
        for parameter, moment in (("since", since), ("until", until)):
            if moment is not None and moment.tzinfo is None:
                raise OperatorError("input.bad", f"{parameter}: a time needs its zone, as in 2026-03-01T12:00:00Z")
        if platform is not None and (wrong := wrong_platform(platform)) is not None:
            raise OperatorError("input.bad", f"platform: {wrong}")

        def read() -> FoundReleases:
            found = repository.search(
                name=name,
                version_range=version,
                platform=platform,
                tags=tuple(tag or ()),
                channel=channel,
                since=since,
                until=until,
                yanked=yanked,
                limit=limit + 1,
                after=after,
            )
            following = found[limit - 1].key if len(found) > limit else None
            misspelled = name is not None and not found and _PATTERN.isdisjoint(name)
            near = repository.near(name) if name is not None and misspelled else []
            return FoundReleases(items=listed(fleet.rollouts, found[:limit]), next=following, near=near)

        return await to_thread.run_sync(read)

    @post("/site", summary="Several releases in one file, for another controller", status_code=200)
    async def site(self, repository: TheRepository, spool: NamedDependency[Spool], data: JSONBody[SiteWish]) -> Stream:
        """For `flotilla import` there; signs what would expire within the days that it is to be good for."""

        def write(path: Path) -> None:
            found: list[ReleaseRecord] = []
            for name, versions in data.packages.items():
                some = _all_of(repository, name, versions)
                if not some:
                    asked = one_line(f"{name} {versions or ''}".strip(), 200)
                    near = did_you_mean(repository.near(name))
                    raise PublisherError("release.unknown", f"no release of {asked} is there{near}")
                found += some
            repository.export_site(found, path, data.valid_days)

        return await spooled(spool, write)

    @post(
        "/import",
        summary="Take in a file of another controller",
        status_code=200,
        request_max_body_size=MAX_UPLOAD_BYTES,
        operation_class=UploadOperation,
    )
    async def take_in(
        self,
        request: Request[Any, Any, Any],
        repository: TheRepository,
        spool: NamedDependency[Spool],
        bundle_maker: TheBundleMaker,
        root: Annotated[str, QueryParameter(pattern=SHA256_PATTERN, description="sha256 of the root file to trust")],
    ) -> Imported:
        """Verified from that root, signed anew here; all of it or nothing."""
        async with received(request, spool) as path:
            imported = await to_thread.run_sync(repository.import_site, path, root)
        about(request, " ".join(record.key for record in imported.releases))
        for record in imported.releases:
            bundle_maker.want(record)
        return imported

    @post("/retire", summary="Remove old releases that nothing needs", status_code=200)
    async def retire(
        self, request: Request[Any, Any, Any], repository: TheRepository, fleet: TheFleet, data: JSONBody[RetireWish]
    ) -> Retired:
        """Says what goes and how many bytes; with `dry_run`, as is the default, nothing is done."""
        if data.dry_run:
            nothing_changed(request)
        rules = Rules(keep=data.keep, younger_than=timedelta(days=data.older_than_days))
        return await to_thread.run_sync(lambda: repository.retire(rules, fleet.releases_in_use, dry_run=data.dry_run))

    @get("/{name:str}/compare", summary="What changed between two versions")
    async def compare(
        self,
        repository: TheRepository,
        bundle_maker: TheBundleMaker,
        name: FromPath[str],
        old: Annotated[str, QueryParameter(name="from", description="the version before, e.g. 1.0.0")],
        new: Annotated[str, QueryParameter(name="to", description="the version after")],
        platform: Annotated[str, QueryParameter(description="without it the first that both are there for")] = "",
        after: AfterName = "",
        limit: Limit = 100,
    ) -> ComparisonView:
        """Files added, removed and changed, by path, and the bytes that are new; yanked versions too."""

        def look() -> ComparisonView:
            found = difference(repository, bundle_maker, name, old, new, platform=platform)
            files = found.files
            every = sorted(
                (
                    ChangedFile(path=one.path, change=change, before=one.before, after=one.after)
                    for change, some in _changes(files)
                    for one in some
                    if one.path > after
                ),
                key=lambda one: one.path,
            )
            return ComparisonView(
                package=name,
                platform=found.new.platform,
                old=found.old.version,
                new=found.new.version,
                added=len(files.added),
                removed=len(files.removed),
                changed=len(files.changed),
                same=files.same,
                new_bytes=files.new_bytes,
                parts=files.parts,
                bundle=found.bundle,
                items=every[:limit],
                next=every[limit - 1].path if len(every) > limit else None,
            )

        return await to_thread.run_sync(look)

    @get("/{name:str}/{version:str}", summary="One version, for each of its platforms")
    async def version(
        self, repository: TheRepository, fleet: TheFleet, name: FromPath[str], version: FromPath[str]
    ) -> list[ListedRelease]:
        """The releases of a version; 404 where there is none."""
        return await to_thread.run_sync(lambda: listed(fleet.rollouts, _version(repository, name, version)))

    @post("/{name:str}/{version:str}/yank", summary="Let a version be chosen no more, or again", status_code=200)
    async def yank(
        self,
        request: Request[Any, Any, Any],
        repository: TheRepository,
        fleet: TheFleet,
        name: FromPath[str],
        version: FromPath[str],
        data: JSONBody[YankWish],
    ) -> YankView:
        """Searches leave it out and no channel can be pointed at it; devices that have it or fetch it go on."""
        does(request, "package.yank" if data.yanked else "package.unyank")

        def change() -> YankView:
            wanted = str(parse(version))
            if data.yanked:
                repository.yank(name, wanted, data.reason)
            else:
                repository.unyank(name, wanted, data.reason)
            announced = fleet.offered(name, wanted) if data.yanked else []
            return YankView(
                releases=_version(repository, name, wanted),
                warnings=[
                    f"rollout {one.id} still announces it on channel {one.channel}; release another version there, "
                    f"or withdraw it: flotilla withdraw {name} --channel {one.channel}"
                    for one in announced
                ],
            )

        return await to_thread.run_sync(change)

    @delete("/{name:str}/{version:str}", summary="Remove a version", status_code=204)
    async def remove(
        self,
        repository: TheRepository,
        fleet: TheFleet,
        name: FromPath[str],
        version: FromPath[str],
        platform: FromQuery[str | None] = None,
        although_in_use: Annotated[
            bool, QueryParameter(description="even where devices run it, may go back to it, or are held at it")
        ] = False,
    ) -> None:
        """Withdraw a version from signed metadata and index; 409 while a channel, a rollout or a device needs it."""

        def delete_unless_needed() -> None:
            for rollout in fleet.announced(name, version):
                raise PublisherError(
                    "release.in_use",
                    f"{name} {version} is what rollout {rollout.id} announces on channel {rollout.channel};"
                    " release another version there first",
                )
            there = any(platform in (None, one.platform) for one in repository.records(name, version))
            if there and not although_in_use and version in fleet.releases_in_use().get(name, ()):
                raise PublisherError(
                    "release.in_use",
                    f"devices run {name} {version}, may go back to it or are held at it, and could not fetch it again;"
                    " to have it released no more and kept: flotilla yank; to delete it all the same: --although-in-use"
                    " (in the API: although_in_use=true)",
                )
            repository.delete(name, version, platform)

        await to_thread.run_sync(delete_unless_needed)

    @get("/{name:str}/{version:str}/export", summary="One file for devices without a network")
    async def export(
        self,
        repository: TheRepository,
        spool: NamedDependency[Spool],
        name: FromPath[str],
        version: FromPath[str],
        platform: FromQuery[str | None] = None,
    ) -> Stream:
        """The release with the signed metadata in it, for `flotilla-agent install`, good as long as that is."""
        return await spooled(spool, lambda path: repository.export(name, version, platform, path))

    @post("/{name:str}/{version:str}/export", summary="The same, signed for longer", status_code=200)
    async def export_for(
        self,
        repository: TheRepository,
        spool: NamedDependency[Spool],
        name: FromPath[str],
        version: FromPath[str],
        valid_days: Annotated[int, QueryParameter(ge=1, le=366)],
        platform: FromQuery[str | None] = None,
    ) -> Stream:
        """Signs anew what would expire before; hence no GET."""
        return await spooled(spool, lambda path: repository.export(name, version, platform, path, valid_days))


@get("/root", tags=["packages"], summary="The trusted root that agents start from", media_type="application/json")
async def trusted_root(repository: TheRepository) -> bytes:
    """The latest root metadata of TUF: bring it to devices by a way that you trust."""
    return await to_thread.run_sync(repository.trusted_root)


@get("/statistics", tags=["packages"], summary="How much the repository holds")
async def statistics(repository: TheRepository) -> Statistics:
    """Numbers of packages, releases and objects, and their bytes."""
    return await to_thread.run_sync(repository.statistics)


def _changes(files: Comparison) -> list[tuple[Change, list[FileChange]]]:
    return [("added", files.added), ("removed", files.removed), ("changed", files.changed)]


def _all_of(repository: PackageRepository, name: str, versions: str | None) -> list[ReleaseRecord]:
    """The releases of a package in a range; where they are more than one file can have, more than that many."""
    some: list[ReleaseRecord] = []
    while len(some) <= MAX_RELEASES:
        after = some[-1].key if some else None
        page = repository.search(name, version_range=versions, limit=MAX_RELEASES, after=after)
        some += page
        if len(page) < MAX_RELEASES:
            break
    return some


def _version(repository: PackageRepository, name: str, version: str) -> list[ReleaseRecord]:
    wanted = str(parse(version))
    # a range cannot tell builds of a version apart, and a name may be a pattern
    found = repository.search(name=name, version_range=f"={wanted}", yanked=True, limit=MAX_PAGE)
    exact = [record for record in found if (record.package, record.version) == (name, wanted)]
    if not exact:
        raise repository.unknown(name, wanted)
    return exact
