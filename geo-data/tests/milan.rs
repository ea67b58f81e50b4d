//! A real city read and joined: mobile load of Milan on its grid, summed up at the sites of its base stations.
//!
//! The files cannot be passed on (their licences want any derived table shared alike), so this runs where
//! `ISOBAR_DATA_DIR` names a folder that has them, and says so where it does not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use isobar_geo_data::nearest::NearestIndex;
use isobar_geo_data::read::{
    Input, ReadError, read_join, read_joined_trace, read_sites, read_trace,
};
use isobar_geo_data::site::Site;

const LOADS: &str = "milan_internet_2013-12-16_sansiro.csv.gz";

fn folder() -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("ISOBAR_DATA_DIR").map(PathBuf::from) else {
        println!("skipped: ISOBAR_DATA_DIR is not set, Milan's load is not here");
        return None;
    };
    if !folder.join(LOADS).exists() {
        println!("skipped: no {LOADS} in {}", folder.display());
        return None;
    }
    Some(folder)
}

fn sites(folder: &Path, file: &str) -> Result<Vec<Site>, ReadError> {
    read_sites(Input::open(&folder.join(file))?)
}

#[test]
fn load_is_conserved_when_joined_to_sites() -> Result<(), ReadError> {
    let Some(folder) = folder() else {
        return Ok(());
    };
    let squares = sites(&folder, "milan_grid.csv.gz")?;
    let stations = sites(&folder, "milan_sites.csv.gz")?;
    assert_eq!((squares.len(), stations.len()), (10_000, 8_280));

    let by_square = read_trace(Input::open(&folder.join(LOADS))?, &squares)?;
    assert_eq!(
        (by_square.bins(), by_square.bin()),
        (30, Duration::from_secs(600))
    );
    assert_eq!(by_square.bin_start(0).to_string(), "2013-12-16T18:40Z");
    assert_eq!(by_square.bin_start(29).to_string(), "2013-12-16T23:30Z");
    assert_eq!(by_square.value(0, 0), Some(13.4));

    let join = Input::open(&folder.join("milan_square_to_site.csv.gz"))?;
    let join = read_join(join, &stations)?;
    assert_eq!(join.len(), 10_000);
    let by_site = read_joined_trace(Input::open(&folder.join(LOADS))?, &stations, &join)?;
    assert_eq!((by_site.sites().len(), by_site.bins()), (8_280, 30));
    for bin in 0..30 {
        let total_squares: f64 = (0..10_000).filter_map(|at| by_square.value(at, bin)).sum();
        let total_sites: f64 = (0..8_280).filter_map(|at| by_site.value(at, bin)).sum();
        assert!(total_squares > 0.0);
        assert!((total_squares - total_sites).abs() < 1e-6 * total_squares);
    }
    Ok(())
}

#[test]
fn the_join_is_by_nearest_site() -> Result<(), ReadError> {
    let Some(folder) = folder() else {
        return Ok(());
    };
    let squares = sites(&folder, "milan_grid.csv.gz")?;
    let stations = sites(&folder, "milan_sites.csv.gz")?;
    let positions: Vec<_> = stations.iter().map(|site| site.position).collect();
    let index = NearestIndex::new(&positions);
    let join = Input::open(&folder.join("milan_square_to_site.csv.gz"))?;
    let join = read_join(join, &stations)?;
    // The join was made from the outlines of squares, this from their rounded centres: they differ where two sites are
    // about as near.
    let same = squares.iter().filter(|square| {
        let nearest = index.nearest(square.position, 1)[0].index;
        join.site_of(&square.id) == Some(nearest)
    });
    let same = same.count();
    assert!(same > 9_500, "{same} of 10000");
    Ok(())
}
