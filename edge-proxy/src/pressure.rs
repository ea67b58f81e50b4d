//! Whether home is under pressure, or only met a crowd.
//!
//! At 60 % utilisation one request in six finds a few others waiting: chance, gone within milliseconds. At a hot spot
//! nearly every request finds all workers busy. The two want different answers: a home under pressure should send
//! requests on before they queue, a calm one should sit a small crowd out, for a move costs a round trip and helps
//! little. What tells them apart is the share of arrivals that lately found no idle worker.
//!
//! When requests also come much faster than they used to, a spike has begun here, and the controller should hear of it
//! before the report's window ends: [`Pressure::take_onset`].

use isobar_mesh_api::hop::LoadHint;

/// What the newest arrival counts: the share looks back over about this many arrivals' worth.
const GAIN: f32 = 1.0 / 32.0;
/// The same for how fast requests usually come.
const USUAL_GAIN: f32 = 1.0 / 512.0;
/// Share of arrivals without an idle worker from which home is under pressure. At 60 % utilisation it is 0.29 with four
/// workers and 0.6 with one.
pub const PRESSED_SHARE: f32 = 0.75;
/// How many times faster than usual requests must come for a spike. Chance makes the smoothed gap so short
/// once in a million.
pub const SPIKE_FACTOR: f32 = 2.0;

/// What recent arrivals found. One per worker thread; never shared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pressure {
    /// Share of them that found all workers busy.
    busy_share: f32,
    /// Mean time between them, in microseconds.
    gap_us: f32,
    /// The same over a longer time; 0 before the second arrival.
    usual_gap_us: f32,
    last_us: u64,
    spike: bool,
    onset: bool,
}

impl Pressure {
    /// Takes up one arrival that finds home like this at `now_us`; whether home is under pressure.
    pub fn arrived(&mut self, home: LoadHint, now_us: u64) -> bool {
        let busy = f32::from(u8::from(home.in_flight >= home.workers));
        self.busy_share += GAIN * (busy - self.busy_share);
        let pressed = self.busy_share >= PRESSED_SHARE;
        self.pace(now_us);
        // A spike lasts as long as the pressure: what is usual meanwhile catches up with it.
        let spike = pressed && (self.spike || self.gap_us * SPIKE_FACTOR < self.usual_gap_us);
        self.onset |= spike && !self.spike;
        self.spike = spike;
        pressed
    }

    fn pace(&mut self, now_us: u64) {
        let gap_us = now_us.saturating_sub(self.last_us) as f32;
        if self.last_us > 0 && self.usual_gap_us == 0.0 {
            (self.gap_us, self.usual_gap_us) = (gap_us, gap_us);
        } else if self.last_us > 0 {
            self.gap_us += GAIN * (gap_us - self.gap_us);
            self.usual_gap_us += USUAL_GAIN * (gap_us - self.usual_gap_us);
        }
        self.last_us = now_us;
    }

    /// Whether a spike began since this was asked last.
    pub fn take_onset(&mut self) -> bool {
        std::mem::take(&mut self.onset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(in_flight: u32) -> LoadHint {
        LoadHint {
            in_flight,
            workers: 4,
            latency_us: 20_000,
        }
    }

    /// An exponential gap.
    fn gap_us(rng: &mut fastrand::Rng, mean_us: f64) -> u64 {
        (-mean_us * (1.0 - rng.f64()).ln()) as u64
    }

    #[test]
    fn a_crowd_is_no_pressure_and_a_hot_spot_is() {
        let (mut pressure, mut rng) = (Pressure::default(), fastrand::Rng::with_seed(3));
        let mut now_us = 1;
        for n in 0..10_000 {
            now_us += gap_us(&mut rng, 8_000.0);
            let in_flight = if rng.f64() < 0.29 { 8 } else { 2 };
            assert!(!pressure.arrived(load(in_flight), now_us), "arrival {n}");
        }
        let arrivals = (1..)
            .find(|_| pressure.arrived(load(4), now_us))
            .unwrap_or(0);
        assert!((10..=40).contains(&arrivals), "{arrivals}");
        let calm = (1..)
            .find(|_| !pressure.arrived(load(3), now_us))
            .unwrap_or(0);
        assert!((1..=10).contains(&calm), "{calm}");
    }

    #[test]
    fn a_spike_is_told_once_and_load_from_others_is_none() {
        let (mut pressure, mut rng) = (Pressure::default(), fastrand::Rng::with_seed(4));
        let mut now_us = 1;
        // All workers busy with what others moved here; own requests come as usual.
        for n in 0..20_000 {
            now_us += gap_us(&mut rng, 8_000.0);
            pressure.arrived(load(6), now_us);
            assert!(n < 1_000 || !pressure.take_onset(), "arrival {n}");
        }
        let mut onsets = 0;
        for _ in 0..2_000 {
            now_us += gap_us(&mut rng, 800.0);
            pressure.arrived(load(6), now_us);
            onsets += u32::from(pressure.take_onset());
        }
        assert_eq!(onsets, 1);
    }
}
