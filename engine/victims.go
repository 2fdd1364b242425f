package engine

import (
	"cmp"
	"slices"

	"github.com/sakerdb/saker/internal/base"
	"github.com/sakerdb/saker/recordcache"
	"github.com/sakerdb/saker/tablespace"
)

// plan is what to rewrite next.
type plan struct {
	victims    map[base.RunID]bool
	live, dead int64
	copied     int64 // bytes that this adds: what is dead of the leaves is not written again
}

// plan chooses the runs with the least live share, up to a sixteenth of all bytes,
// if more than maxDeadShare of all is dead.
func (c *collector) plan(db *DB, sv *recordcache.Survey) plan {
	p := plan{victims: map[base.RunID]bool{}}
	current := db.temps.PermanentID()
	share := func(r *tablespace.RunInfo) int64 { return sv.Runs[r.Run].Live * 100 / max(r.Bytes, 1) }
	var list []tablespace.RunInfo
	total, roll := int64(0), false
	for _, r := range db.space.RunInfos(nil) {
		if r.Owner != 0 && !db.cache.Committed(r.Owner) {
			continue // temporary: its owner's, or the sweeper's
		}
		total += r.Bytes
		p.live += min(sv.Runs[r.Run].Live, r.Bytes)
		roll = roll || (r.Run == current && r.Bytes > c.least/4 && share(&r) < maxLiveShare)
		if r.Sealed && r.Listed > 0 && share(&r) < maxLiveShare && !c.unreadable.runs[r.Run] {
			list = append(list, r)
		}
	}
	p.dead = total - p.live
	c.live.Store(p.live)
	c.dead.Store(p.dead)
	if p.dead < c.least/2 || p.dead*100 < total*maxDeadShare {
		p.victims = c.namesakes(db, max(c.least, total/batchFraction))
		return p
	}
	if roll {
		db.temps.Roll() // it is a victim next time
	}
	cost := func(r *tablespace.RunInfo) int64 { return sv.Runs[r.Run].Cost * 1000 / max(r.Bytes, 1) }
	slices.SortFunc(list, func(a, b tablespace.RunInfo) int { return cmp.Compare(cost(&a), cost(&b)) })
	budget := max(c.least, total/batchFraction)
	for i := range list {
		n := sv.Runs[list[i].Run].Cost
		if n > budget && len(p.victims) > 0 {
			break
		}
		p.victims[list[i].Run] = true
		p.copied += n
		budget -= n
	}
	p.copied = int64(float64(p.copied) * float64(p.live) / float64(max(total, 1)))
	return p
}

// namesakes chooses the smallest runs of decided owners, if outcomes take too much
// memory: as many as make room enough, of budget bytes at most.
func (c *collector) namesakes(db *DB, budget int64) map[base.RunID]bool {
	victims := map[base.RunID]bool{}
	many := db.cache.ManyOutcomes()
	if many == 0 {
		return victims
	}
	list := slices.DeleteFunc(db.space.RunInfos(nil), func(r tablespace.RunInfo) bool {
		return r.Owner == 0 || !r.Sealed || r.Listed == 0 || c.unreadable.runs[r.Run] || !db.cache.Committed(r.Owner)
	})
	slices.SortFunc(list, func(a, b tablespace.RunInfo) int { return cmp.Compare(a.Bytes, b.Bytes) })
	for _, r := range list {
		if budget -= r.Bytes; budget < 0 || many <= 0 {
			break
		}
		victims[r.Run] = true
		many -= recordcache.OutcomeBytes
	}
	return victims
}
