//! The project's own files: which crate may know which, and what a deployment is made of.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(file: &str) -> Result<String> {
    std::fs::read_to_string(project().join(file)).with_context(|| file.to_owned())
}

/// What each crate may depend on of the others.
const EDGES: &[(&str, &[&str])] = &[
    ("audit", &["core", "prices", "projector", "protocol", "store"]),
    ("bench", &["audit", "client", "core", "engine", "projector", "protocol", "store", "testkit"]),
    ("calls", &["client", "core", "protocol"]),
    ("client", &["core", "protocol"]),
    ("core", &[]),
    ("engine", &["client", "core", "projector", "protocol", "store"]),
    ("examples", &["calls", "client", "core", "protocol", "saga"]),
    ("http", &["client", "core", "prices", "projector", "protocol", "store"]),
    ("prices", &["core"]),
    ("projector", &["core", "store"]),
    ("protocol", &["core"]),
    ("saga", &["client", "core", "protocol"]),
    ("store", &["core"]),
    ("testkit", &["store"]),
    (
        "",
        &[
            "audit",
            "bench",
            "client",
            "core",
            "engine",
            "examples",
            "http",
            "prices",
            "projector",
            "protocol",
            "saga",
            "store",
            "testkit",
        ],
    ),
    (
        "tests",
        &[
            "calls",
            "client",
            "core",
            "examples",
            "prices",
            "projector",
            "protocol",
            "saga",
            "store",
            "testkit",
        ],
    ),
];

fn packages() -> Result<Vec<Value>> {
    let metadata = metadata()?;
    Ok(metadata["packages"].as_array().context("packages")?.clone())
}

fn metadata() -> Result<Value> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--no-deps", "--format-version", "1", "--offline"]).current_dir(project());
    let output = cargo.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// `cargo run -- demo` of the README names no program, so there must be one that is meant.
#[test]
fn cargo_run_runs_holdfast() -> Result<()> {
    let metadata = metadata()?;
    let members = metadata["workspace_default_members"].as_array().context("default members")?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let is_program =
        |target: &&Value| target["kind"].as_array().is_some_and(|kinds| kinds.contains(&"bin".into()));
    let programs: Vec<&str> = packages
        .iter()
        .filter(|package| members.contains(&package["id"]))
        .flat_map(|package| package["targets"].as_array().into_iter().flatten())
        .filter(is_program)
        .filter_map(|target| target["name"].as_str())
        .collect();
    assert_eq!(programs, ["holdfast"]);
    Ok(())
}

/// The names of a package's ordinary dependencies.
fn dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().into_iter().flatten();
    let ordinary = all.filter(|dependency| dependency["kind"].is_null());
    ordinary.filter_map(|dependency| dependency["name"].as_str().map(str::to_owned)).collect()
}

fn short(name: &str) -> &str {
    name.strip_prefix("holdfast").map_or(name, |rest| rest.trim_start_matches('-'))
}

#[test]
fn crates_depend_on_each_other_only_along_the_edges_that_were_settled_on() -> Result<()> {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        EDGES.iter().map(|(name, edges)| (*name, edges.iter().copied().collect())).collect();
    let packages = packages()?;
    assert_eq!(packages.len(), EDGES.len());
    for package in &packages {
        let name = short(package["name"].as_str().context("a name")?);
        let found = dependencies(package);
        let found: BTreeSet<&str> =
            found.iter().filter(|name| name.starts_with("holdfast")).map(|n| short(n)).collect();
        assert_eq!(Some(&found), allowed.get(name), "{name}");
    }
    Ok(())
}

#[test]
fn the_rules_have_no_dependency_that_could_do_io() -> Result<()> {
    let packages = packages()?;
    let core = packages.iter().find(|package| package["name"] == "holdfast-core").context("core")?;
    let expected = ["serde", "serde_json", "serde_path_to_error", "sha2", "thiserror", "uuid"];
    assert_eq!(dependencies(core), expected.map(str::to_owned).into());
    let protocol =
        packages.iter().find(|package| package["name"] == "holdfast-protocol").context("protocol")?;
    for forbidden in ["tokio", "async-nats", "sqlx", "axum"] {
        assert!(!dependencies(protocol).contains(forbidden), "{forbidden}");
    }
    Ok(())
}

#[test]
fn compose_is_pinned_mounts_what_exists_and_sets_what_serve_knows() -> Result<()> {
    let mut yaml: serde_yaml_ng::Value = serde_yaml_ng::from_str(&read("compose.yaml")?)?;
    yaml.apply_merge()?;
    let compose: Value = serde_json::to_value(yaml)?;
    let services = compose["services"].as_object().context("services")?;
    let help = Command::new(holdfast_tests::binary()?).args(["serve", "--help"]).output()?;
    let help = String::from_utf8(help.stdout)?;
    let (mut images, mut mounts, mut variables) = (0, 0, 0);
    for (name, service) in services {
        if let Some(image) = service["image"].as_str().filter(|_| service.get("build").is_none()) {
            ensure!(is_pinned(image), "{name}: {image} is not pinned");
            images += 1;
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source =
                volume.as_str().and_then(|text| text.split(':').next()).or(volume["source"].as_str());
            let Some(file) = source.filter(|source| source.starts_with("./")) else { continue };
            ensure!(project().join(file).exists(), "{name} mounts {file}, which does not exist");
            mounts += 1;
        }
        if service.get("build").is_none() {
            continue;
        }
        for variable in service["environment"].as_object().context("environment")?.keys() {
            ensure!(
                help.contains(variable.as_str()),
                "{name} sets {variable}, which serve --help does not know"
            );
            variables += 1;
        }
    }
    ensure!(
        images >= 2 && mounts >= 3 && variables >= 7,
        "{images} images, {mounts} mounts, {variables} variables"
    );
    let example = read(".env.example")?;
    ensure!(!example.contains("hf1_"), ".env.example has something like a token in it");
    Ok(())
}

/// Whether an image's tag names an exact version.
fn is_pinned(image: &str) -> bool {
    let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
    image.contains("@sha256:")
        || tag.matches('.').count() >= 1 && tag.starts_with(|c: char| c.is_ascii_digit())
}

#[test]
fn the_dockerfile_is_pinned_copies_what_exists_and_runs_as_an_ordinary_user() -> Result<()> {
    let dockerfile = read("Dockerfile")?;
    let lines = || dockerfile.lines().map(str::trim);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    for from in lines().filter(|line| line.starts_with("FROM ")) {
        let image = &words(from)[1];
        let dated = image.rsplit('-').any(|part| part.len() == 8 && part.bytes().all(|b| b.is_ascii_digit()));
        ensure!(is_pinned(image) || dated, "{image} is not pinned");
    }
    for copy in lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from")) {
        let parts = words(copy);
        let sources = parts[1..parts.len() - 1].iter().filter(|part| !part.starts_with("--"));
        for source in sources.filter(|source| *source != ".") {
            ensure!(project().join(source).exists(), "{source} is copied and does not exist");
        }
    }
    let user = lines().rfind(|line| line.starts_with("USER ")).context("no USER line")?;
    ensure!(!user.contains("root") && user != "USER 0", "{user}");
    Ok(())
}

#[test]
fn every_code_has_a_section_in_the_documentation() -> Result<()> {
    let (source, documented) = (read("crates/core/src/rejection.rs")?, read("docs/errors.md")?);
    let bodies = source.split("pub fn code(&self)").skip(1).filter_map(|rest| rest.split("\n    }\n").next());
    let codes: Vec<&str> = bodies.flat_map(|body| body.split('"').skip(1).step_by(2)).collect();
    ensure!(codes.len() >= 24, "{codes:?}");
    for code in codes {
        ensure!(documented.contains(&format!("## `{code}`")), "docs/errors.md has no section for `{code}`");
    }
    Ok(())
}

#[test]
fn the_openapi_description_has_every_route_of_the_documentation() -> Result<()> {
    let packages = packages()?;
    ensure!(packages.iter().any(|package| package["name"] == "holdfast-http"));
    let source: String = ["accounts", "money", "holds", "reads", "monitoring"]
        .into_iter()
        .map(|file| read(&format!("crates/http/src/routes/{file}.rs")))
        .collect::<Result<_>>()?;
    let documented = read("docs/http.md")?;
    let routes: Vec<&str> =
        source.split("path = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    ensure!(routes.len() >= 14, "{routes:?}");
    for route in routes {
        ensure!(documented.contains(route), "docs/http.md does not mention {route}");
    }
    Ok(())
}
