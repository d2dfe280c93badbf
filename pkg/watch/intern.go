package watch

import (
	"strings"
	"sync"
)

// maxInterned bounds what an interner remembers; clusters end at 5,000 nodes.
const maxInterned = 1 << 15

// interner gives equal texts and equal lists one place in memory: the decoder makes a copy of the node's
// name for each of its endpoints. Not unique.Make, which forgets what no handle holds. When it has seen
// too many (nodes come and go for years) it starts anew, which costs sharing, not correctness.
type interner struct {
	mu    sync.Mutex
	texts map[string]string
	lists map[string][]string
}

func newInterner() *interner {
	return &interner{texts: make(map[string]string), lists: make(map[string][]string)}
}

func (in *interner) text(s string) string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.textLocked(s)
}

func (in *interner) textLocked(s string) string {
	if known, ok := in.texts[s]; ok {
		return known
	}
	if len(in.texts) >= maxInterned {
		clear(in.texts)
	}
	s = strings.Clone(s) // may be a part of something large
	in.texts[s] = s
	return s
}

// list returns the shared list of the n texts that at returns; nil for none. It is not to be written.
func (in *interner) list(n int, at func(int) string) []string {
	if n == 0 {
		return nil
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if n == 1 { // nearly always
		return in.listLocked(at(0), 1, at)
	}
	var id strings.Builder
	for i := range n {
		id.WriteString(at(i))
		id.WriteByte(0)
	}
	return in.listLocked(id.String(), n, at)
}

func (in *interner) listLocked(id string, n int, at func(int) string) []string {
	if known, ok := in.lists[id]; ok && len(known) == n && equalTo(known, at) {
		return known
	}
	if len(in.lists) >= maxInterned {
		clear(in.lists)
	}
	list := make([]string, n)
	for i := range list {
		list[i] = in.textLocked(at(i))
	}
	in.lists[id] = list
	return list
}

// equalTo guards against lists whose ids collide because their texts hold zero bytes.
func equalTo(list []string, at func(int) string) bool {
	for i, s := range list {
		if s != at(i) {
			return false
		}
	}
	return true
}
