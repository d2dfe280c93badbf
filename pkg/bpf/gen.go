package bpf

// clang 19 makes the objects that are committed; see "make generate".
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -no-global-types -type address -type frontend_key -type frontend -type service -type flow -type uplink -type member -type affinity_key -type affinity_entry -type source_range -type pod_link -type service_range -type service_range_list -type slot -type backend -type tuple -type socket_record -type stat -type verdict -type frontend_kind -type frontend_flag -type backend_state -type flow_flag -type socket_flag svcproxy ../../bpf/svcproxy.c -- -I../../bpf -I../../bpf/headers -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter
//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bpf -no-global-types destroy ../../bpf/destroy.c -- -I../../bpf -I../../bpf/headers -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter
