//! The binary as people call it: help, bad usage, tokens. (Its presence also makes
//! `cargo test --workspace` build the binary that the integration tests run.)

use std::process::{Command, Output};

use anyhow::Result;

const TOKEN: &str = "hf1_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

fn holdfast(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    for variable in
        ["INTERNAL_SERVICE_TOKEN", "INTERNAL_SERVICE_TOKEN_FILE", "NATS_URL", "HOLDFAST_DATABASE_URL"]
    {
        command.env_remove(variable);
    }
    Ok(command.args(arguments).envs(environment.iter().copied()).output()?)
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn a_new_token_is_strong_and_its_keys_can_be_derived() -> Result<()> {
    let token = said(&holdfast(&["token", "new"], &[])?);
    let environment = [("INTERNAL_SERVICE_TOKEN", token.trim())];
    let keys = holdfast(&["token", "check", "--output", "json"], &environment)?;
    assert!(keys.status.success());
    let keys: serde_json::Value = serde_json::from_slice(&keys.stdout)?;
    let issuers: Vec<_> =
        keys["keys"].as_array().expect("a list").iter().map(|key| key["issuer"].clone()).collect();
    assert_eq!(issuers, ["auth", "backend", "http", "operator"]);
    let derived = holdfast(&["token", "derive", "--issuer", "backend"], &environment)?;
    assert!(said(&derived).starts_with("hfk1.backend."));
    Ok(())
}

#[test]
fn what_is_missing_is_named_with_what_to_do() -> Result<()> {
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 5] = [
        (&["token", "check"], &[], "holdfast token new"),
        (&["token", "check"], &[("INTERNAL_SERVICE_TOKEN", "short")], "at least 32"),
        (&["serve", "--audience", "a"], &[("INTERNAL_SERVICE_TOKEN", TOKEN)], "HOLDFAST_DATABASE_URL"),
        (&["send", "deduct", "u"], &[("INTERNAL_SERVICE_TOKEN", TOKEN)], "NATS_URL"),
        (&["send", "steal", "u"], &[("INTERNAL_SERVICE_TOKEN", TOKEN)], "`steal` is no verb"),
    ];
    for (arguments, environment, words) in cases {
        let output = holdfast(arguments, environment)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{arguments:?}: {}", said(&output));
    }
    Ok(())
}

#[test]
fn both_a_secret_and_its_file_is_an_error() -> Result<()> {
    let environment = [("INTERNAL_SERVICE_TOKEN", TOKEN), ("INTERNAL_SERVICE_TOKEN_FILE", "/dev/null")];
    let output = holdfast(&["token", "check"], &environment)?;
    assert!(said(&output).contains("set one"));
    Ok(())
}

#[test]
fn a_command_can_be_printed_for_the_nats_cli() -> Result<()> {
    let environment = [("INTERNAL_SERVICE_TOKEN", TOKEN)];
    let output = holdfast(&["send", "deduct", "a b", r#"{"amount":"1"}"#, "--print"], &environment)?;
    assert!(said(&output).starts_with("nats pub ledger.cmd.operator.deduct.~YSBi '{\"v\":1,"));
    Ok(())
}

#[test]
fn the_token_is_nowhere_in_what_is_printed() -> Result<()> {
    let environment =
        [("INTERNAL_SERVICE_TOKEN", TOKEN), ("HOLDFAST_DATABASE_URL", "postgres://u:CANARY@127.0.0.1:1/x")];
    for arguments in
        [&["--help"][..], &["serve", "--help"], &["send", "--help"], &["token", "check"], &["migrate"]]
    {
        let output = holdfast(arguments, &environment)?;
        assert!(!said(&output).contains(TOKEN) && !said(&output).contains("CANARY"), "{arguments:?}");
    }
    Ok(())
}
