package reconcile

// A set keeps an order that depends on nothing but what was done to it, so that runs can be repeated.
type set[T comparable] struct {
	list  []T
	index map[T]int
}

func (s *set[T]) len() int { return len(s.list) }

func (s *set[T]) add(v T) {
	if s.index == nil {
		s.index = make(map[T]int)
	}
	if _, ok := s.index[v]; !ok {
		s.index[v] = len(s.list)
		s.list = append(s.list, v)
	}
}

func (s *set[T]) remove(v T) {
	i, ok := s.index[v]
	if !ok {
		return
	}
	last := len(s.list) - 1
	s.list[i] = s.list[last]
	s.index[s.list[i]] = i
	clear(s.list[last:]) // not to keep what it points to
	s.list = s.list[:last]
	delete(s.index, v)
}
