//! Commands that stand in a sentence name commands and options that there are.

use clap::Command;

use super::super::pages;
use super::programs;

/// What is wrong with a command in a sentence, which may leave out what it needs.
fn wrong(program: &Command, text: &str) -> Option<String> {
    let mut command = program;
    let mut is_deciding = true;
    let known = |command: &Command, option: &str| {
        let name = option
            .trim_start_matches('-')
            .split(['=', ','])
            .next()
            .unwrap_or("");
        let long = |argument: &clap::Arg| argument.get_long() == Some(name);
        let short = |argument: &clap::Arg| {
            argument
                .get_short()
                .is_some_and(|short| name.len() == 1 && name.starts_with(short))
        };
        command
            .get_arguments()
            .any(|argument| long(argument) || short(argument))
            || ["help", "version"].contains(&name)
    };
    for word in text.split_whitespace().skip(1) {
        if word.starts_with('-') && word.len() > 1 {
            if !known(command, word) {
                return Some(format!("{} has no {word}", command.get_name()));
            }
            is_deciding = false;
        } else if is_deciding && command.has_subcommands() {
            let is_word = word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            match command.find_subcommand(word) {
                Some(inner) => command = inner,
                None if is_word && command.get_positionals().next().is_none() => {
                    return Some(format!("{} has no {word}", command.get_name()));
                }
                None => is_deciding = false,
            }
        } else {
            is_deciding = false;
        }
        if ["|", ">", "<", "&&", ";"].contains(&word) {
            break;
        }
    }
    None
}

#[test]
fn commands_in_sentences_are_those_of_the_programs() {
    let mut programs = programs();
    programs.iter_mut().for_each(|(_, program)| program.build());
    let (mut seen, mut found) = (0, Vec::new());
    for (page, text) in pages() {
        let mut in_code = false;
        for (index, line) in text.lines().enumerate() {
            in_code ^= line.starts_with("```");
            if in_code {
                continue;
            }
            for code in line.split('`').skip(1).step_by(2) {
                let first = code.split(' ').next().unwrap_or("");
                let Some((_, program)) = programs.iter().find(|(name, _)| *name == first) else {
                    continue;
                };
                seen += 1;
                if let Some(problem) = wrong(program, code) {
                    found.push(format!("{page}:{}: `{code}`: {problem}", index + 1));
                }
            }
        }
    }
    assert!(seen > 50, "{seen} commands in sentences");
    assert!(found.is_empty(), "{}", found.join("\n"));
}
