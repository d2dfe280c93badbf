package endpoints

import "slices"

// pools returns the pools that frontends name; candidates index as the backends do. A pool that nobody
// names is not made, so that a Service which is Local in all it has leads to no other node.
func pools(frontends []Frontend, candidates []candidate, view *View) []Pool {
	var named [2][2]bool // by family, scope
	size := 0
	for i := range frontends {
		f := &frontends[i]
		for _, scope := range [2]Scope{f.Inside, f.Outside} {
			if name := &named[family(f.Addr)][scope]; !*name {
				*name = true
				size++
			}
		}
	}

	first6 := slices.IndexFunc(candidates, func(c candidate) bool { return c.Addr.Addr().Is6() })
	if first6 < 0 {
		first6 = len(candidates)
	}
	bounds := [3]int{0, first6, len(candidates)}

	list := make([]Pool, 0, size)
	for fam, scopes := range named {
		base, members := bounds[fam], candidates[bounds[fam]:bounds[fam+1]]
		n := count(members, view)
		for scope, wanted := range scopes {
			if wanted {
				p := n.pool(Scope(scope), members, base)
				p.Name.IPv6 = fam == 1
				list = append(list, p)
			}
		}
	}
	return list
}

// pool returns the pool of scope; base is the index of the first of candidates.
func (n *census) pool(scope Scope, candidates []candidate, base int) Pool {
	size := 0
	for i := range candidates {
		if n.has(scope, &candidates[i]) {
			size++
		}
	}
	p := Pool{Name: PoolName{Scope: scope}, Verdict: n.verdict(scope, size)}
	if size == 0 {
		return p
	}
	p.Backends = make([]int, 0, size)
	for i := range candidates {
		if n.has(scope, &candidates[i]) {
			p.Backends = append(p.Backends, base+i)
		}
	}
	return p
}
