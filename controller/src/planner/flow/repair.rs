//! What happens to retained flow and prices when the problem changed under them.

use super::Flow;

impl Flow {
    /// Makes flow and prices fit each other at the nodes that changed, then balances what that left over, and what the
    /// last solve had `left`.
    pub(super) fn mend(&mut self, left: Vec<u32>) {
        let nodes = self.nodes();
        let mut unbalanced = left;
        for supply in self.dirty.supplies.take_sorted() {
            self.mend_supply(supply as usize, &mut unbalanced);
        }
        for facility in self.dirty.facilities.take_sorted() {
            unbalanced.push(nodes as u32 + facility);
        }
        unbalanced.sort_unstable();
        unbalanced.dedup();
        for &node in &unbalanced {
            if node as usize >= nodes {
                self.mend_facility(node as usize - nodes);
            }
        }
        self.balance::<false>(&unbalanced);
        self.balance::<true>(&unbalanced);
        self.leave_rest(unbalanced);
    }

    /// Remembers which nodes are still out of balance.
    fn leave_rest(&mut self, mut unbalanced: Vec<u32>) {
        unbalanced.retain(|&node| self.excess_mrps[node as usize] != 0);
        self.left = unbalanced;
    }

    /// Lowers a supply's price to its cheapest way out, and takes its flow back from dearer ways.
    fn mend_supply(&mut self, supply: usize, unbalanced: &mut Vec<u32>) {
        unbalanced.push(supply as u32);
        self.touched.mark(supply as u32);
        let nodes = self.nodes();
        let mut price_ns = self.exit_ns;
        for link in &self.arcs.rows.link[self.arcs.rows.group(supply)] {
            let way_ns = i64::from(link.cost_ns) + self.price_ns[nodes + link.node as usize];
            price_ns = price_ns.min(way_ns);
        }
        self.price_ns[supply] = price_ns;
        for arc in self.row(supply as u32) {
            let (facility, flow_mrps) = (nodes + self.arcs.head(arc), self.carried.get(arc));
            if flow_mrps > 0 && self.arcs.cost_ns(arc) + self.price_ns[facility] > price_ns {
                self.carried.add(&self.arcs, arc, -flow_mrps);
                self.excess_mrps[supply] += flow_mrps;
                self.excess_mrps[facility] -= flow_mrps;
                unbalanced.push(facility as u32);
            }
        }
        if self.exit_ns > price_ns {
            self.excess_mrps[supply] += std::mem::take(&mut self.exit_mrps[supply]);
        }
    }

    /// Lets a facility serve what its price says, as near as possible to what enters.
    fn mend_facility(&mut self, facility: usize) {
        let node = self.nodes() + facility;
        let inflow_mrps = self.served_mrps[facility] + self.excess_mrps[node];
        let price_ns = self.price_ns[node];
        let fixed_mrps = self.facility[facility].fixed_mrps;
        let (least_mrps, most_mrps) = self.curve.loads_at(self.facility[facility], price_ns);
        let (least_mrps, most_mrps) = (
            (least_mrps - fixed_mrps).max(0),
            (most_mrps - fixed_mrps).max(0),
        );
        let served_mrps = inflow_mrps.clamp(least_mrps, most_mrps);
        self.served_mrps[facility] = served_mrps;
        self.excess_mrps[node] = inflow_mrps - served_mrps;
    }

    /// Forgets the solution and begins with all load at home that belongs there at first sight.
    pub(super) fn start_over(&mut self) {
        let nodes = self.nodes();
        self.dirty.all = false;
        self.dirty.supplies.take_sorted();
        self.dirty.facilities.take_sorted();
        self.carried.clear();
        self.exit_mrps.fill(0);
        self.price_at_home();
        let mut unbalanced = Vec::new();
        for node in 0..nodes {
            self.touched.mark(node as u32);
            let (facility, price_ns) = (self.facility[node], self.price_ns[nodes + node]);
            let (_, most_mrps) = self.curve.loads_at(facility, price_ns);
            let demand_mrps = self.demand_mrps[node];
            let home_mrps = demand_mrps.min((most_mrps - facility.fixed_mrps).max(0));
            let home_arc = self.arcs.rows.start[node];
            self.carried.add(&self.arcs, home_arc, home_mrps);
            self.served_mrps[node] = home_mrps;
            self.price_ns[node] = price_ns;
            self.excess_mrps[node] = demand_mrps - home_mrps;
            self.excess_mrps[nodes + node] = 0;
            if demand_mrps > home_mrps {
                unbalanced.push(node as u32);
            }
        }
        self.balance::<false>(&unbalanced);
        self.leave_rest(unbalanced);
    }

    /// Gives every facility the price of serving all its own demand, or, where that is less, the price of its cheapest
    /// neighbour and the way there: the greatest prices with which no arc is cheaper than they say.
    fn price_at_home(&mut self) {
        let nodes = self.nodes();
        for node in 0..nodes {
            let (facility, demand_mrps) = (self.facility[node], self.demand_mrps[node]);
            let total_mrps = facility.fixed_mrps + demand_mrps;
            let step = if demand_mrps > 0 {
                self.curve.held(facility, total_mrps)
            } else {
                self.curve.room(facility, total_mrps)
            };
            self.price_ns[nodes + node] =
                step.map_or(self.exit_ns, |step| step.slope_ns.min(self.exit_ns));
        }
        let cheaper = &mut self.forest.agenda;
        cheaper.clear();
        for node in 0..nodes {
            let row = &self.arcs.rows.link[self.arcs.rows.group(node)];
            let ways = row
                .iter()
                .map(|link| i64::from(link.cost_ns) + self.price_ns[nodes + link.node as usize]);
            let way_ns = ways.min().unwrap_or(self.exit_ns);
            if way_ns < self.price_ns[nodes + node] {
                self.price_ns[nodes + node] = way_ns;
                cheaper.set(node as u32, way_ns);
            }
        }
        while let Some((way_ns, node)) = cheaper.first() {
            cheaper.remove(node);
            let node = node as usize;
            for link in &self.arcs.cols.link[self.arcs.cols.group(node)] {
                let longer_ns = way_ns + i64::from(link.cost_ns);
                if longer_ns < self.price_ns[nodes + link.node as usize] {
                    self.price_ns[nodes + link.node as usize] = longer_ns;
                    cheaper.set(link.node, longer_ns);
                }
            }
        }
    }
}
