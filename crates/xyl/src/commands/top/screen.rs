//! The full-screen display of `xyl top`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::Paragraph;
use ratatui::{DefaultTerminal, Frame};
use signal_hook::consts::{SIGHUP, SIGTERM};

use super::sample::Sample;
use super::table::{SortBy, Table};
use super::{Args, delay};
use crate::context::Context;
use crate::error::{Failure, Outcome};
use crate::shown::Shown;

/// Interval at which signals are checked.
const SIGNAL_CHECK: Duration = Duration::from_millis(250);

/// Draws samples until a key or a signal ends it, or all samples are drawn.
///
/// The terminal's modes are restored in every case: ratatui does it after a panic, this function otherwise.
pub fn run(args: &Args, context: &Context) -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .map_err(|source| Failure::io("catch signals", source))?;
    }
    let terminal =
        ratatui::try_init().map_err(|source| Failure::io("draw on the terminal", source))?;
    let outcome = Screen::new(args).run(context, terminal, &stop);
    ratatui::restore();
    outcome
}

struct Screen<'a> {
    args: &'a Args,
    delay: Duration,
    sort_by: SortBy,
    reverse: bool,
    first_row: usize,
}

/// Actions of the keys.
enum Wish {
    Quit,
    Redraw,
    Nothing,
}

impl<'a> Screen<'a> {
    fn new(args: &'a Args) -> Screen<'a> {
        Screen {
            args,
            delay: delay(args),
            sort_by: SortBy::Domid,
            reverse: false,
            first_row: 0,
        }
    }

    fn run(
        mut self,
        context: &Context,
        mut terminal: DefaultTerminal,
        stop: &AtomicBool,
    ) -> Outcome {
        let drawing = |source| Failure::io("draw on the terminal", source);
        let mut before = None;
        let mut nr_left = self.args.iterations;
        loop {
            let sample = Sample::take(context)?;
            let next = Instant::now() + self.delay;
            loop {
                terminal
                    .draw(|frame| self.draw(frame, &sample, before.as_ref()))
                    .map_err(drawing)?;
                match self.wait(next, stop).map_err(drawing)? {
                    Some(Wish::Quit) => return Ok(()),
                    Some(_) => {}
                    None => break,
                }
            }
            before = Some(sample);
            nr_left = nr_left.map(|left| left - 1);
            if nr_left == Some(0) || stop.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    }

    /// Waits for a key with an action. `None` when the next sample is due.
    fn wait(&mut self, next: Instant, stop: &AtomicBool) -> std::io::Result<Option<Wish>> {
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(Some(Wish::Quit));
            }
            if !event::poll(left.min(SIGNAL_CHECK))? {
                continue;
            }
            let wish = match event::read()? {
                Event::Key(key) => self.key(key),
                Event::Resize(..) => Wish::Redraw,
                _ => Wish::Nothing,
            };
            if !matches!(wish, Wish::Nothing) {
                return Ok(Some(wish));
            }
        }
    }

    fn key(&mut self, key: KeyEvent) -> Wish {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => {
                return Wish::Quit;
            }
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('s' | 'S') => self.sort_by = self.sort_by.next(),
            KeyCode::Char('r' | 'R') => self.reverse = !self.reverse,
            KeyCode::Char('+') => self.delay += Duration::from_secs(1),
            KeyCode::Char('-') => {
                self.delay = self
                    .delay
                    .saturating_sub(Duration::from_secs(1))
                    .max(Duration::from_secs(1));
            }
            KeyCode::Down => self.first_row = self.first_row.saturating_add(1),
            KeyCode::Up => self.first_row = self.first_row.saturating_sub(1),
            KeyCode::PageDown => self.first_row = self.first_row.saturating_add(20),
            KeyCode::PageUp => self.first_row = self.first_row.saturating_sub(20),
            KeyCode::Home => self.first_row = 0,
            _ => return Wish::Nothing,
        }
        Wish::Redraw
    }

    fn draw(&mut self, frame: &mut Frame, sample: &Sample, before: Option<&Sample>) {
        let table = Table::new(sample, before, self.sort_by, self.args.full_name);
        let mut rows: Vec<&String> = table.rows().iter().collect();
        if self.reverse {
            rows.reverse();
        }
        self.first_row = self.first_row.min(rows.len().saturating_sub(1));
        let [summary, header, body, keys] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Length(1),
            Constraint::Min(1),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let reversed = Style::new().add_modifier(Modifier::REVERSED);
        let lines = rows
            .into_iter()
            .skip(self.first_row)
            .map(|row| Line::from(row.as_str()));
        frame.render_widget(Paragraph::new(summary_lines(sample)), summary);
        frame.render_widget(Paragraph::new(table.header()).style(reversed), header);
        frame.render_widget(Paragraph::new(lines.collect::<Vec<Line>>()), body);
        let nameless = sample.nameless.as_deref();
        let status = nameless.map_or_else(|| self.status(), |why| Shown::line(why).to_string());
        frame.render_widget(Paragraph::new(status), keys);
    }

    fn status(&self) -> String {
        let direction = if self.reverse { " (reversed)" } else { "" };
        format!(
            "q quit  s sort: {}{direction}  +/- every {} s  arrows scroll",
            self.sort_by.name(),
            self.delay.as_secs()
        )
    }
}

fn summary_lines(sample: &Sample) -> Vec<Line<'static>> {
    let count =
        |of: fn(&super::sample::Domain) -> bool| sample.domains.iter().filter(|d| of(d)).count();
    let phys = &sample.phys;
    let used = phys.total_pages.saturating_sub(phys.free_pages);
    vec![
        Line::from(format!(
            "xyl top - {}",
            xyl_engine::host::timezone::now().strftime("%H:%M:%S")
        )),
        Line::from(format!(
            "{} domains: {} running, {} blocked, {} paused, {} shut down, {} dying",
            sample.domains.len(),
            count(|domain| domain.info.flags.running),
            count(|domain| domain.info.flags.blocked),
            count(|domain| domain.info.flags.paused),
            count(|domain| domain.info.flags.shutdown),
            count(|domain| domain.info.flags.dying),
        )),
        Line::from(format!(
            "Mem: {}k total, {}k used, {}k free    CPUs: {} @ {}MHz",
            phys.total_pages * 4,
            used * 4,
            phys.free_pages * 4,
            phys.nr_cpus,
            phys.cpu_khz / 1000,
        )),
    ]
}
