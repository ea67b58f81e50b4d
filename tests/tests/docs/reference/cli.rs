//! Every command and option of the three programs.

use std::fmt::Write;

use clap::builder::ValueRange;
use clap::{Arg, Command, CommandFactory};

use super::{cell, compare, head, row};

/// Options that many commands share: they are told of once.
fn shared(root: &Command) -> Vec<String> {
    let mut all = Vec::new();
    fn each(command: &Command, all: &mut Vec<String>) {
        for argument in shown(command) {
            all.push(line(argument));
        }
        command.get_subcommands().for_each(|one| each(one, all));
    }
    each(root, &mut all);
    let mut sorted = all.clone();
    sorted.sort();
    sorted.dedup();
    sorted.retain(|one| all.iter().filter(|other| *other == one).count() > 10);
    sorted
}

fn shown(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_told = |argument: &&Arg| {
        !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str())
    };
    command.get_arguments().filter(is_told)
}

/// An argument as a row of a table.
fn line(argument: &Arg) -> String {
    let mut name = Vec::new();
    name.extend(argument.get_short().map(|short| format!("-{short}")));
    name.extend(argument.get_long().map(|long| format!("--{long}")));
    let mut name = name.join(", ");
    let takes = argument
        .get_num_args()
        .unwrap_or(ValueRange::SINGLE)
        .takes_values();
    let is_flag = !argument.get_action().takes_values() || !takes;
    if !is_flag {
        let values = argument.get_value_names().unwrap_or_default();
        let values: Vec<&str> = values.iter().map(|value| value.as_str()).collect();
        let _ = write!(
            name,
            "{}{}",
            if name.is_empty() { "" } else { " " },
            values.join(" ")
        );
    }
    let words: Vec<String> = match is_flag {
        true => Vec::new(),
        false => argument
            .get_possible_values()
            .iter()
            .filter(|one| !one.is_hide_set())
            .map(|one| format!("`{}`", one.get_name()))
            .collect(),
    };
    let defaults = argument
        .get_default_values()
        .iter()
        .map(|value| format!("`{}`", value.to_string_lossy()));
    let defaults: Vec<String> = if is_flag {
        Vec::new()
    } else {
        defaults.collect()
    };
    let mut says = argument
        .get_help()
        .or(argument.get_long_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    if !words.is_empty() {
        let _ = write!(says, ": {}", words.join(", "));
    }
    let env = argument
        .get_env()
        .map(|env| format!("`{}`", env.to_string_lossy()))
        .unwrap_or_default();
    let mut out = String::new();
    row(
        &mut out,
        &[
            &format!("`{name}`"),
            &defaults.join(", "),
            &env,
            &cell(&says),
        ],
    );
    out
}

fn table(out: &mut String, rows: &[String]) {
    if rows.is_empty() {
        return;
    }
    head(out, &["argument", "default", "variable", "meaning"]);
    rows.iter().for_each(|one| out.push_str(one));
    out.push('\n');
}

fn write(out: &mut String, command: &Command, level: usize, shared: &[String]) {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    let _ = writeln!(out, "{} {name}\n", "#".repeat(level));
    let about = command.get_long_about().or(command.get_about());
    if let Some(about) = about {
        let about = about.to_string();
        let _ = writeln!(out, "{}.\n", cell(about.trim_end_matches('.')));
    }
    let usage = command.clone().render_usage().to_string();
    let usage = usage
        .trim_start_matches("Usage: ")
        .lines()
        .map(str::trim)
        .collect::<Vec<_>>()
        .join("\n");
    let _ = writeln!(out, "```text\n{usage}\n```\n");
    let rows: Vec<String> = shown(command)
        .map(line)
        .filter(|row| !shared.contains(row))
        .collect();
    table(out, &rows);
    if let Some(help) = command.get_after_help() {
        let _ = writeln!(out, "```text\n{}\n```\n", help.to_string().trim());
    }
    let inside = command
        .get_subcommands()
        .filter(|one| !one.is_hide_set() && one.get_name() != "help");
    inside.for_each(|one| write(out, one, (level + 1).min(4), shared));
}

#[test]
fn commands_are_those_of_the_code() {
    let programs = [
        isobar_cli::arguments::Arguments::command(),
        isobar_edge_proxy::cli::command(),
        isobar_controller::cli::Args::command(),
    ];
    let mut out = String::new();
    for mut program in programs {
        program.build();
        let shared = shared(&program);
        write(&mut out, &program, 2, &shared);
        if !shared.is_empty() {
            let _ = writeln!(out, "### Options of everything that asks a controller\n");
            table(&mut out, &shared);
        }
    }
    let about = "Every command and option of `isobar`, `isobar-proxy` and `isobar-controller`. What they are for: [the command line](../cli.md).";
    compare("cli.md", "Commands", about, &out);
}
