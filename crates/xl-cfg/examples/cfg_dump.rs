//! Prints a configuration as JSON: `cfg_dump FILE [NAME=VALUE...]`. Errors and warnings go to standard error.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(file) = arguments.next() else {
        eprintln!("usage: cfg_dump FILE [NAME=VALUE...]");
        return ExitCode::from(2);
    };
    let overrides: Vec<String> = arguments.collect();
    match xl_cfg::read_file(Path::new(&file), &overrides) {
        Ok(config) => {
            eprint!("{}", config.report().render(false));
            match serde_json::to_string_pretty(&config.domain) {
                Ok(json) => println!("{json}"),
                Err(error) => eprintln!("cannot write JSON: {error}"),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
