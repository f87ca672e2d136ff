//! The programs start, say what they take, and refuse what makes no sense.

use std::process::Command;

#[test]
fn every_service_says_what_it_takes() {
    for service in ["provider", "files", "git", "vectors", "auth", "backend"] {
        let help = Command::new(env!("CARGO_BIN_EXE_holdfast-example")).args([service, "--help"]).output();
        let help = help.expect("the program starts");
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        assert!(help.status.success() && text.contains("--listen"), "{service}: {text}");
    }
}

#[test]
fn without_the_token_no_service_starts() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast-example"));
    command.args(["files", "--data"]).arg(std::env::temp_dir().join("holdfast-example-no-token"));
    let output = command.env_remove("INTERNAL_SERVICE_TOKEN").output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("INTERNAL_SERVICE_TOKEN is not set"), "{said}");
}

#[test]
fn the_program_of_the_guide_says_what_is_missing() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guide-chat"));
    let output = command.env_clear().output().expect("the program starts");
    assert!(!output.status.success() && !output.stderr.is_empty());
}
