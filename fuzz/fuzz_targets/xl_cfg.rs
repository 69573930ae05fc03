//! A configuration file: any bytes, parsed as xl.cfg and as xl.conf. What is accepted prints as text that parses to
//! the same configuration.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xl_cfg::{Source, parse, parse_xl_conf};

fuzz_target!(|bytes: &[u8]| {
    let Ok(source) = Source::from_bytes("fuzz.cfg", bytes) else {
        return;
    };
    let (_, report) = parse_xl_conf(source.clone());
    drop(report.render(true));
    match parse::<&str>(source, &[]) {
        Ok(config) => {
            drop(config.report().render(false));
            let raw = &config.domain.raw;
            let printed: String = raw
                .iter()
                .map(|(key, value)| format!("{key} = {value}\n"))
                .collect();
            let Ok(source) = Source::from_bytes("printed.cfg", printed.as_bytes()) else {
                return;
            };
            match parse::<&str>(source, &[]) {
                Ok(again) => assert_eq!(again.domain, config.domain),
                Err(error) => {
                    panic!("what was accepted is refused when printed:\n{printed}\n{error}")
                }
            }
        }
        Err(error) => drop(error.to_string()),
    }
});
