//! `everlink man`: the manual page, made of the command line's own words.

use std::io;
use std::process::ExitCode;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{DEFAULT_URL, OK, VERSION};

/// Prints the page; 1 if nobody takes it.
pub fn run() -> ExitCode {
    match page(super::definition()) {
        Ok(page) => {
            let _ = super::say(&page);
            ExitCode::from(OK)
        }
        Err(error) => super::no(&format!("the manual page cannot be made: {error}")),
    }
}

/// The page in roff.
fn page(cli: Command) -> io::Result<String> {
    let mut cli = cli.disable_help_subcommand(true);
    cli.build();
    let commands: Vec<_> = cli.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let source = format!("everlink {VERSION}");
    let man = Man::new(cli.clone()).section("1").source(source).manual("everlink").date("");
    let (mut title, mut page) = (Vec::new(), Vec::new());
    man.render_title(&mut title)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut page = String::from_utf8_lossy(&title).into_owned() + &inner(&String::from_utf8_lossy(&page), |_| true);
    page.push_str(".SH COMMANDS\n");
    for command in &commands {
        page.push_str(&section(command)?);
    }
    for (title, entries) in [
        (
            "EXIT STATUS",
            &[
                ("0", "Done, or yes."),
                ("1", "Not done, or no; run could not go on."),
                ("2", "Wrong usage."),
                ("78", "A configuration that cannot be used."),
                ("130", "run was told a second time to end, and left without a drain."),
            ][..],
        ),
        (
            "SIGNALS",
            &[
                (
                    "SIGTERM, SIGINT",
                    "Drain: /readyz turns 503, clients beside us are still served; the end comes when none has been open for \
                     drain.quiet, but not before drain.minimum, and at drain.timeout at the latest. A second one ends at once.",
                ),
                ("SIGHUP", "Read the configuration again, and cut every wait for a redial short."),
            ],
        ),
        (
            "FILES",
            &[
                (
                    "config.toml",
                    "The configuration, in the working directory unless --config names another. It is watched: what differs \
                     after an edit is applied while everything else stays as it is. `everlink schema` describes it for editors, \
                     `everlink check` tells every mistake.",
                ),
                (
                    "[admin] socket",
                    "A unix socket of mode 0600 that reload, retry and drill ask. There is none unless the configuration names it.",
                ),
            ],
        ),
        (
            "ENVIRONMENT",
            &[
                ("EVERLINK_URL", "Where status and probe ask, if --url is not given."),
                ("NO_COLOR", "Set to anything: status shows no colours."),
            ],
        ),
    ] {
        page.push_str(&list(title, entries));
    }
    if let Some(example) = cli.get_after_long_help().or_else(|| cli.get_after_help()) {
        page.push_str(&Roff::new().control("SH", ["EXAMPLES"]).to_roff());
        // The exit codes have a section of their own.
        page.push_str(&as_it_is(example.to_string().split("\n\nExit codes").next().unwrap_or_default()));
    }
    let mut end = Roff::new();
    end.control("SH", ["SEE ALSO"]);
    end.text([roman(format!("A running everlink shows itself at {DEFAULT_URL}/ unless http.listen says otherwise."))]);
    page.push_str(&end.to_roff());
    Ok(page)
}

/// One command: how it is called, what it does, its options, an example.
fn section(command: &Command) -> io::Result<String> {
    let man = Man::new(command.clone());
    let part = |render: &dyn Fn(&mut Vec<u8>) -> io::Result<()>| {
        let mut text = Vec::new();
        render(&mut text)?;
        let is_heading = |line: &str| line.starts_with(".SH ");
        Ok::<_, io::Error>(inner(&String::from_utf8_lossy(&text), |line| !is_heading(line)))
    };
    let mut roff = Roff::new();
    roff.control("SS", [format!("everlink {}", command.get_name()).as_str()]);
    let mut section = roff.to_roff();
    section.push_str(&part(&|text| man.render_synopsis_section(text))?);
    section.push_str(".PP\n");
    section.push_str(&part(&|text| man.render_description_section(text))?);
    section.push_str(&part(&|text| man.render_options_section(text))?);
    if let Some(example) = command.get_after_long_help().or_else(|| command.get_after_help()) {
        section.push_str(&as_it_is(&example.to_string()));
    }
    Ok(section)
}

/// Without what stands before each whole page, and only those lines that are to `stay`.
fn inner(roff: &str, stay: impl Fn(&str) -> bool) -> String {
    let is_frame = |line: &str| line.starts_with(".ie \\n(.g") || line.starts_with(".el .ds Aq");
    roff.lines().filter(|line| !is_frame(line) && stay(line)).map(|line| format!("{line}\n")).collect()
}

/// Lines that stay lines.
fn as_it_is(text: &str) -> String {
    let mut roff = Roff::new();
    roff.control("PP", []).control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.to_roff()
}

fn list(title: &str, entries: &[(&str, &str)]) -> String {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (term, text) in entries {
        roff.control("TP", []).text([bold(*term)]).text([roman(*text)]);
    }
    roff.to_roff()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_option_is_on_it() {
        let cli = super::super::definition();
        let page = page(cli.clone()).unwrap();
        for command in cli.get_subcommands() {
            assert!(page.contains(&format!(".SS \"everlink {}\"\n", command.get_name())), "{}", command.get_name());
            for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
                assert!(page.contains(&format!("\\-\\-{}", option.replace('-', "\\-"))), "{option}");
            }
        }
        for section in
            ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "SIGNALS", "FILES", "ENVIRONMENT", "EXAMPLES"]
        {
            assert_eq!(page.matches(&format!(".SH {section}\n")).count(), 1, "{section}");
        }
        assert_eq!(page.matches(".ds Aq").count(), 2, "the frame of a page stands once");
    }
}
