"""`/api/v1/packages/{name}/{version}/bundles`: in which single files devices can get a version, and from where."""

from anyio import to_thread
from litestar import get, post
from litestar.params import FromPath

from controller.http.given import TheBundleMaker, TheRepository
from controller.repository.bundle_views import ReleaseBundles
from controller.repository.by_version import releases_of


@get("/packages/{name:str}/{version:str}/bundles", tags=["packages"], summary="The bundles that lead to a version")
async def bundles(
    repository: TheRepository, bundle_maker: TheBundleMaker, name: FromPath[str], version: FromPath[str]
) -> list[ReleaseBundles]:
    """For each of its platforms: what there is, and how far those are that are being made."""

    def look() -> list[ReleaseBundles]:
        return [bundle_maker.state(record) for record in releases_of(repository, name, version)]

    return await to_thread.run_sync(look)


@post(
    "/packages/{name:str}/{version:str}/bundles",
    tags=["packages"],
    summary="Try again to make the bundles that could not be made",
    status_code=202,
)
async def make_bundles_again(
    repository: TheRepository, bundle_maker: TheBundleMaker, name: FromPath[str], version: FromPath[str]
) -> list[ReleaseBundles]:
    """What failed before is tried at once, whatever it was; the answer says what there is now."""

    def again() -> list[ReleaseBundles]:
        records = releases_of(repository, name, version)
        for record in records:
            bundle_maker.again(record)
        return [bundle_maker.state(record) for record in records]

    return await to_thread.run_sync(again)
