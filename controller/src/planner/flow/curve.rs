//! What one facility costs: the shared curve of utilisation, scaled by each facility's capacity and service time.

use super::FlowError;

/// Largest rate the solver takes for one node, in milli-requests/s (10⁹ requests/s). Larger inputs are clamped to it,
/// so that sums over [`super::NODES_MAX`] nodes stay below 2⁶³.
pub const RATE_MRPS_MAX: i64 = 1_000_000_000_000;

/// Largest service time, in nanoseconds (60 s). Larger inputs are clamped to it.
pub const SERVICE_NS_MAX: i64 = 60_000_000_000;

/// Largest utilisation a curve may name, in parts per million (400 %).
pub const UTILISATION_PPM_MAX: u32 = 4_000_000;

/// Most segments of one curve; a curve with more is refused.
pub const SEGMENTS_MAX: usize = 64;

const PPM: i64 = 1_000_000;

/// The convex cost of load, as segments of utilisation shared by all facilities.
///
/// Segment k spans the utilisation from the end of segment k−1 (0 for the first) to `upto_ppm[k]`; every request/s in
/// it adds `excess_ppm[k]` millionths of the bare service time in waiting, its own and that which it causes others.
/// Above the last segment nothing is planned: its end is the ceiling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curve {
    upto_ppm: Vec<u32>,
    excess_ppm: Vec<u32>,
}

impl Curve {
    /// Makes a curve of `upto_ppm.len()` segments.
    ///
    /// # Errors
    /// [`FlowError::CurveShape`] if the lists are empty, of different length or longer than [`SEGMENTS_MAX`];
    /// [`FlowError::CurveEnd`] if ends do not increase from above 0 to at most [`UTILISATION_PPM_MAX`];
    /// [`FlowError::CurveConcave`] if a segment is cheaper than the one before it.
    pub fn new(upto_ppm: Vec<u32>, excess_ppm: Vec<u32>) -> Result<Self, FlowError> {
        let (ends, slopes) = (upto_ppm.len(), excess_ppm.len());
        if ends != slopes || ends == 0 || ends > SEGMENTS_MAX {
            return Err(FlowError::CurveShape { ends, slopes });
        }
        let mut below_ppm = 0;
        for (segment, &end_ppm) in upto_ppm.iter().enumerate() {
            if end_ppm <= below_ppm || end_ppm > UTILISATION_PPM_MAX {
                return Err(FlowError::CurveEnd { segment });
            }
            below_ppm = end_ppm;
        }
        if let Some(before) = excess_ppm.windows(2).position(|pair| pair[1] < pair[0]) {
            return Err(FlowError::CurveConcave {
                segment: before + 1,
            });
        }
        Ok(Self {
            upto_ppm,
            excess_ppm,
        })
    }

    /// The segments of one facility from the lowest up: slope in ns per request, and the total load in
    /// milli-requests/s at which it ends.
    pub(super) fn segments(&self, facility: Facility) -> impl Iterator<Item = Segment> + '_ {
        self.upto_ppm
            .iter()
            .zip(&self.excess_ppm)
            .map(move |(&upto_ppm, &excess_ppm)| Segment {
                slope_ns: facility.slope_ns(excess_ppm),
                end_mrps: facility.load_mrps(upto_ppm),
            })
    }

    /// What the next unit of load costs at `total_mrps`, and how much more finds room at that cost. `None` at the
    /// ceiling.
    pub(super) fn room(&self, facility: Facility, total_mrps: i64) -> Option<Step> {
        let ends = self
            .upto_ppm
            .iter()
            .map(|&upto_ppm| facility.load_mrps(upto_ppm));
        let (segment, end_mrps) = ends
            .enumerate()
            .find(|&(_, end_mrps)| end_mrps > total_mrps)?;
        let slope_ns = facility.slope_ns(self.excess_ppm[segment]);
        Some(Step {
            slope_ns,
            mrps: end_mrps - total_mrps,
        })
    }

    /// What the last unit of load costs at `total_mrps`, and how much may leave at that cost before the segment below
    /// it, or the load that is fixed, is reached. `None` if nothing can leave.
    pub(super) fn held(&self, facility: Facility, total_mrps: i64) -> Option<Step> {
        if total_mrps <= facility.fixed_mrps {
            return None;
        }
        let mut start_mrps = 0;
        for segment in self.segments(facility) {
            if segment.end_mrps >= total_mrps {
                let mrps = total_mrps - start_mrps.max(facility.fixed_mrps);
                return Some(Step {
                    slope_ns: segment.slope_ns,
                    mrps,
                });
            }
            start_mrps = segment.end_mrps;
        }
        None
    }

    /// The least and the greatest total load at which a price of `price_ns` is right.
    pub(super) fn loads_at(&self, facility: Facility, price_ns: i64) -> (i64, i64) {
        let (mut least_mrps, mut most_mrps) = (0, 0);
        for segment in self.segments(facility) {
            if segment.slope_ns < price_ns {
                least_mrps = segment.end_mrps;
            }
            if segment.slope_ns <= price_ns {
                most_mrps = segment.end_mrps;
            }
        }
        (least_mrps, most_mrps)
    }
}

/// One facility: the endpoints of the service on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facility {
    /// Load it can serve, in milli-requests/s; 0 if it has no endpoint.
    pub capacity_mrps: i64,
    /// Bare service time of one request, in nanoseconds.
    pub service_ns: i64,
    /// Load it already carries that no plan can move, in milli-requests/s. It fills the lowest segments and may exceed
    /// the ceiling; then there is no room.
    pub fixed_mrps: i64,
}

impl Facility {
    /// The same facility with every number within its limit.
    pub(super) fn clamped(self) -> Self {
        Self {
            capacity_mrps: self.capacity_mrps.clamp(0, RATE_MRPS_MAX),
            service_ns: self.service_ns.clamp(0, SERVICE_NS_MAX),
            fixed_mrps: self.fixed_mrps.clamp(0, RATE_MRPS_MAX),
        }
    }

    fn load_mrps(self, utilisation_ppm: u32) -> i64 {
        self.capacity_mrps * i64::from(utilisation_ppm) / PPM
    }

    /// `excess_ppm` × service time, in two parts so that the product stays below 2⁶³.
    fn slope_ns(self, excess_ppm: u32) -> i64 {
        let excess_ppm = i64::from(excess_ppm);
        excess_ppm / PPM * self.service_ns + excess_ppm % PPM * self.service_ns / PPM
    }
}

/// A stretch of one facility's curve.
#[derive(Clone, Copy)]
pub(super) struct Segment {
    pub(super) slope_ns: i64,
    pub(super) end_mrps: i64,
}

/// Load that may come or go at one slope.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) slope_ns: i64,
    pub(super) mrps: i64,
}
