"""Writes dist/dari-VERSION.cdx.json: a CycloneDX bill of materials of what an operator runs. `make sbom`.

Python packages with what their wheels carry inside, and the crates of the parser, in one graph below dari. A package
that only an extra asks for is `optional`; a crate that only builds the parser is `excluded`, CycloneDX's word for what
is not there at run time. The hashes of a package are of every file that the lock allows, of all platforms.
"""

import sys
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from supply_chain.licences import licence_of
from supply_chain.shipped import PARSER_CRATE, ROOT, VERSION, Bundled, Crate, PythonPackage, crates, python_packages


def bill_of_materials() -> str:
    """As JSON of CycloneDX 1.6. Raises UnknownLicence."""
    bom = Bom()
    dari = Component(
        name="dari",
        version=VERSION,
        type=ComponentType.APPLICATION,
        bom_ref=f"dari@{VERSION}",
        licenses=[LicenseExpression("Apache-2.0")],
        purl=PackageURL("pypi", name="dari", version=VERSION),
    )
    bom.metadata.component = dari
    packages = {package.name: (package, _python_component(package)) for package in python_packages()}
    built = {crate.id: (crate, _crate_component(crate)) for crate in crates()}
    bom.components.update(component for _, component in (*packages.values(), *built.values()))
    bom.register_dependency(
        dari,
        [
            *(component for _, component in packages.values()),
            *(component for crate, component in built.values() if crate.name == PARSER_CRATE),
        ],
    )
    for package, component in packages.values():
        bom.register_dependency(component, [packages[need][1] for need in package.needs])
    for crate, component in built.values():
        bom.register_dependency(component, [built[need][1] for need in crate.needs])
    return JsonV1Dot6(bom).output_as_string(indent=2)


def schema_error(text: str) -> str:
    """Why it is no CycloneDX 1.6; empty if it is."""
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return "" if error is None else str(error)


def _python_component(package: PythonPackage) -> Component:
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"pypi:{package.name}@{package.version}",
        scope=ComponentScope.OPTIONAL if package.is_optional else ComponentScope.REQUIRED,
        licenses=[LicenseExpression(licence_of(package.distribution))],
        purl=PackageURL("pypi", name=package.name, version=package.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256) for sha256 in package.sha256s],
        components=[_bundled_component(package, each) for each in package.bundled],
    )


def _bundled_component(package: PythonPackage, bundled: Bundled) -> Component:
    return Component(
        name=bundled.name,
        version=bundled.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"pypi:{package.name}@{package.version}#{bundled.purl or bundled.name}",
        licenses=[LicenseExpression(bundled.licence)] if bundled.licence else (),
        purl=PackageURL.from_string(bundled.purl) if bundled.purl else None,
    )


def _crate_component(crate: Crate) -> Component:
    return Component(
        name=crate.name,
        version=crate.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"cargo:{crate.name}@{crate.version}",
        scope=ComponentScope.EXCLUDED if crate.is_build_only else ComponentScope.REQUIRED,
        licenses=[LicenseExpression(crate.licence)],
        purl=PackageURL("cargo", name=crate.name, version=crate.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=crate.sha256)] if crate.sha256 else (),
    )


def main(folder: Path = ROOT / "dist") -> None:
    """Write the file, checked against the schema, and tell where."""
    text = bill_of_materials()
    if error := schema_error(text):
        raise SystemExit(f"not CycloneDX 1.6: {error}")
    folder.mkdir(exist_ok=True)
    file = folder / f"dari-{VERSION}.cdx.json"
    file.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"{file.relative_to(ROOT)}\n")


if __name__ == "__main__":
    main()
