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

/// A price book is made of the data of genai-prices, compared with another, and asked.
#[test]
fn a_price_book_is_imported_compared_and_shown() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("holdfast-prices-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = |name: &str| folder.join(name).to_str().expect("a path of text").to_owned();
    let (data, book) = (file("data.json"), file("book.jsonl"));
    let models = |price: &str| {
        format!(
            r#"[{{"id":"acme","name":"Acme","api_pattern":"acme","models":[
                {{"id":"m","match":{{"starts_with":"m"}},"prices":{{"input_mtok":{price},"output_mtok":2}}}},
                {{"id":"free","match":{{"equals":"free"}},"prices":{{}}}}]}}]"#
        )
    };
    let import = |out: &str| {
        let about = ["--source", "test", "--date", "2026-01-01", "--notice", "none"];
        let arguments = [&["--output", "json", "prices", "import", &data, "--out", out], &about[..]].concat();
        holdfast(&arguments, &[])
    };
    std::fs::write(&data, models("0.5"))?;
    let imported: serde_json::Value = serde_json::from_slice(&import(&book)?.stdout)?;
    assert_eq!((&imported["models"], imported["refused"].as_array().map(Vec::len)), (&1.into(), Some(1)));

    let other = file("other.jsonl");
    std::fs::write(&data, models("0.75"))?;
    assert!(import(&other)?.status.success());
    let differences = said(&holdfast(&["prices", "diff", &book, &other], &[])?);
    assert!(differences.contains("~ acme/m: ") && differences.contains("1 differences"), "{differences}");

    let shown = holdfast(
        &["--output", "json", "prices", "show", "M-2", "--provider", "acme", "--book", &other],
        &[],
    )?;
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
    assert_eq!(shown["rates"], serde_json::json!({"input": [[0, 750_000]], "output": [[0, 2_000_000]]}));
    let unpriced = holdfast(&["prices", "show", "free", "--provider", "acme", "--book", &other], &[])?;
    assert_eq!(unpriced.status.code(), Some(1), "{}", said(&unpriced));
    std::fs::write(&other, "nonsense")?;
    let bad = holdfast(&["prices", "show", "m", "--book", &other], &[])?;
    assert!(bad.status.code() == Some(2) && said(&bad).contains("line 1"), "{}", said(&bad));
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
