"""Which versions of packages that require each other fit together, found with `resolvelib`.

Only what plans for a fleet needs this: `resolvelib` belongs to the extra `controller`, so nothing that the
agent imports may import this module.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, NamedTuple

from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible, ResolutionTooDeep, Resolver
from resolvelib.resolvers import Criterion
from resolvelib.structs import RequirementInformation

from schemas.errors import PublisherError, one_line
from schemas.ranges import Range
from schemas.versions import Version, VersionLike, parse, precedence_key

__all__ = ["MAX_ROUNDS", "Offer", "resolve"]

MAX_ROUNDS: Final = 1000
"""Most steps of the search; each package takes at least one."""

Offer = tuple[VersionLike, Mapping[str, str]]
"""A version of a package and what it requires: name to range."""

_SHOWN_VERSIONS: Final = 5  # of one package, in one explanation
_SHOWN_RANGES: Final = 4  # of those in which one package is needed
_SHOWN_PACKAGES: Final = 3  # over which requirements clash, in one explanation
_MAX_MESSAGE_CHARS: Final = 600


def resolve(
    packages: Mapping[str, Iterable[Offer]],
    roots: Mapping[str, str],
    *,
    installed: Mapping[str, VersionLike] | None = None,
    include_prerelease: bool = False,
    max_rounds: int = MAX_ROUNDS,
) -> dict[str, Version]:
    """Choose one version of every package that `roots` need, directly or through others.

    Newer versions are tried first. The result is complete and has nothing that the roots do not lead to.

    Args:
        packages: what exists, by name. Only names that are needed are looked up, each once.
        roots: name to range of what is asked for; `=1.2.3` fixes a version.
        installed: versions that are tried before newer ones, the roots' own included, so that nothing
            moves when they already fit together; one that `packages` does not offer is passed over.
        include_prerelease: whether pre-releases count as versions like any others.
        max_rounds: most steps of the search.

    Returns:
        Name to version, in the order of the names.

    Raises:
        PublisherError: `requires.conflict` with one line that says who needs what and what exists;
            `version.range` or `version.bad` for a range or version that cannot be read, saying whose.
    """
    provider = _Provider(packages, installed or {}, include_prerelease)
    clashes = _Clashes()
    resolver: Resolver[_Requirement, _Candidate, str] = Resolver(provider, clashes)
    try:
        found = resolver.resolve(_requirements(roots, "what is asked for"), max_rounds)
    except ResolutionImpossible as error:
        clashes.add(error.causes)
        raise _conflict("no versions fit together", clashes, provider) from error
    except ResolutionTooDeep as error:
        raise _conflict(f"no fitting versions were found in {max_rounds} rounds", clashes, provider) from error
    return {name: candidate.version for name, candidate in sorted(found.mapping.items())}


class _Requirement(NamedTuple):
    name: str
    within: Range


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A version of a package. Each is made once, so that identity is equality."""

    name: str
    version: Version
    requires: Mapping[str, str]

    @cached_property
    def requirements(self) -> tuple[_Requirement, ...]:
        return _requirements(self.requires, f"{self.name} {self.version}")


_Information = RequirementInformation[_Requirement, _Candidate]


def _requirements(ranges: Mapping[str, str], whose: str) -> tuple[_Requirement, ...]:
    requirements = []
    for name, text in sorted(ranges.items()):
        try:
            requirements.append(_Requirement(name, Range(text)))
        except PublisherError as error:
            raise PublisherError(error.code, f"{whose}, range of {one_line(name, 63)}: {error}") from error
    return tuple(requirements)


class _Provider(AbstractProvider[_Requirement, _Candidate, str]):
    """What `resolvelib` asks about packages. Its ranges are read when a candidate is looked at, not before."""

    def __init__(
        self,
        packages: Mapping[str, Iterable[Offer]],
        installed: Mapping[str, VersionLike],
        include_prerelease: bool,
    ) -> None:
        self._packages = packages
        self._installed = installed
        self._include_prerelease = include_prerelease
        self._candidates: dict[str, tuple[_Candidate, ...]] = {}

    def candidates(self, name: str) -> tuple[_Candidate, ...]:
        """All versions of a package, in the order in which they are tried."""
        if name not in self._candidates:
            self._candidates[name] = tuple(self._ordered(name))
        return self._candidates[name]

    def _ordered(self, name: str) -> Iterator[_Candidate]:
        candidates = []
        for version, requires in self._packages.get(name, ()):
            try:
                parsed = parse(version) if isinstance(version, str) else version
            except PublisherError as error:
                raise PublisherError(error.code, f"package {one_line(name, 63)}: {error}") from error
            candidates.append(_Candidate(name, parsed, requires))
        candidates.sort(key=lambda c: (precedence_key(c.version), c.version.build or ""), reverse=True)
        kept = str(self._installed[name]) if name in self._installed else None
        yield from (c for c in candidates if str(c.version) == kept)
        yield from (c for c in candidates if str(c.version) != kept)

    def identify(self, requirement_or_candidate: _Requirement | _Candidate) -> str:
        return requirement_or_candidate.name

    def get_preference(
        self,
        identifier: str,
        resolutions: Mapping[str, _Candidate],  # noqa: ARG002 - resolvelib passes it by name
        candidates: Mapping[str, Iterator[_Candidate]],
        information: Mapping[str, Iterator[_Information]],  # noqa: ARG002 - the same
        backtrack_causes: Sequence[_Information],
    ) -> tuple[bool, int, str]:
        """What clashed last comes first, then what leaves the least choice; the name settles the rest."""
        clashed = any(
            cause.requirement.name == identifier or (cause.parent and cause.parent.name == identifier)
            for cause in backtrack_causes
        )
        return (not clashed, sum(1 for _ in candidates[identifier]), identifier)

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[_Requirement]],
        incompatibilities: Mapping[str, Iterator[_Candidate]],
    ) -> list[_Candidate]:
        wanted = list(requirements[identifier])
        ruled_out = set(incompatibilities[identifier])
        return [c for c in self.candidates(identifier) if c not in ruled_out and self.fits(c, wanted)]

    def is_satisfied_by(self, requirement: _Requirement, candidate: _Candidate) -> bool:
        return requirement.within.contains(candidate.version, self._include_prerelease)

    def get_dependencies(self, candidate: _Candidate) -> tuple[_Requirement, ...]:
        return candidate.requirements

    def fits(self, candidate: _Candidate, requirements: Iterable[_Requirement]) -> bool:
        return all(self.is_satisfied_by(requirement, candidate) for requirement in requirements)


class _Clashes(BaseReporter[_Requirement, _Candidate, str]):
    """Collects, for each package that ran out of versions, every set of requirements that did it."""

    def __init__(self) -> None:
        self.by_package: dict[str, list[list[_Information]]] = {}

    def rejecting_candidate(
        self,
        criterion: Criterion[_Requirement, _Candidate],
        candidate: _Candidate,  # noqa: ARG002 - among the criterion's parents already
    ) -> None:
        self.add(criterion.information)

    def add(self, information: Iterable[_Information]) -> None:
        by_package: dict[str, list[_Information]] = {}
        for one in information:
            by_package.setdefault(one.requirement.name, []).append(one)
        for name, clash in by_package.items():
            self.by_package.setdefault(name, []).append(clash)


def _conflict(summary: str, clashes: _Clashes, provider: _Provider) -> PublisherError:
    """The error that explains a search without result.

    Only packages count of which no version suits a set of requirements by itself; where versions were
    ruled out by what came before, the explanation is with the package that ruled them out.
    """
    explanations = []
    for name, sets in clashes.by_package.items():
        offered = provider.candidates(name)
        hopeless = [s for s in sets if not any(provider.fits(c, [i.requirement for i in s]) for c in offered)]
        if hopeless:
            explanations.append(_explain(name, [i for s in hopeless for i in s], offered))
    shown = "; ".join(explanations[:_SHOWN_PACKAGES])
    if len(explanations) > _SHOWN_PACKAGES:
        shown += f"; and {len(explanations) - _SHOWN_PACKAGES} more packages"
    message = f"{summary}: {shown}" if shown else summary
    return PublisherError("requires.conflict", one_line(message, _MAX_MESSAGE_CHARS))


def _explain(name: str, wants: Iterable[_Information], offered: Sequence[_Candidate]) -> str:
    """One clause: in which ranges a package is needed, by whom, and which versions of it exist."""
    asked: set[str] = set()
    needers: dict[str, dict[str, set[Version]]] = {}
    for requirement, parent in wants:
        within = one_line(requirement.within, 60) or "*"
        by_name = needers.setdefault(within, {})
        if parent is None:
            asked.add(within)
        else:
            by_name.setdefault(parent.name, set()).add(parent.version)
    # What is asked for comes first: it is what the reader can change.
    clauses = []
    for within, by_name in sorted(needers.items(), key=lambda item: (item[0] not in asked, item[0])):
        who = ["asked for"] if within in asked else []
        who += [f"by {needer} {_listed(versions)}" for needer, versions in sorted(by_name.items())]
        clauses.append(f"{within} ({', '.join(who)})")
    if len(clauses) > _SHOWN_RANGES:
        clauses[_SHOWN_RANGES:] = [f"{len(clauses) - _SHOWN_RANGES} more ranges"]
    exists = "but there is no such package"
    if offered:
        exists = f"but there is only {_listed({candidate.version for candidate in offered})}"
        # Otherwise 1.0.0-rc.1 looks as if it were in ^1.
        if all(candidate.version.prerelease for candidate in offered):
            exists += " (a pre-release fits where a range names it)"
    return f"{name} is needed in {' and '.join(clauses)}, {exists}"


def _listed(versions: Iterable[Version]) -> str:
    newest_first = [str(v) for v in sorted(versions, key=precedence_key, reverse=True)]
    more = len(newest_first) - _SHOWN_VERSIONS
    return ", ".join(newest_first[:_SHOWN_VERSIONS]) + (f" and {more} more" if more > 0 else "")
