package watch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// parsedKeys names the objects, each with its document.
func parsedKeys(t *testing.T, objects []found) []string {
	t.Helper()
	var texts []string
	for _, f := range objects {
		k, _, err := convert(f.object, newInterner())
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, k.String()+", "+f.doc.String())
	}
	return texts
}

func TestParseManifest(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n"
	for _, tt := range []struct {
		name     string
		file     string // .yaml if not given
		data     string
		want     []string
		warnings []string
		err      []string // words of the error
	}{
		{name: "nothing"},
		{name: "comments only", data: "# nothing\n---\n# nothing\n---\n"},
		{name: "two documents", data: service + "---\n" + strings.Replace(service, "web", "api", 1),
			want: []string{"Service default/web, document 1 (line 1)", "Service default/api, document 2 (line 6)"}},
		{name: "line ends of Windows", data: strings.ReplaceAll("---\n"+service+"---\n"+service, "\n", "\r\n"),
			want: []string{"Service default/web, document 1 (line 2)", "Service default/web, document 2 (line 7)"}},
		{name: "a marker within a text is none", data: service + "# ---\n#\n",
			want: []string{"Service default/web, document 1 (line 1)"}},
		{name: "content beside the marker", data: "--- " + `{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}`,
			want: []string{"Service default/web, document 1 (line 1)"}},
		{name: "JSON", file: "a.json", data: "\n" + `{"apiVersion": "v1", "kind": "Service",` + "\t" + `"metadata": {"name": "web"}}` + "\n\n" + `{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}}`,
			want: []string{"Service default/web, document 1 (line 2)", "Node n, document 2 (line 4)"}},
		{name: "another kind", data: "apiVersion: apps/v1\nkind: Deployment\n",
			warnings: []string{"document 1 (line 1): ignored: apps/v1 Deployment is not a Service, EndpointSlice, Node, ServiceCIDR or List"}},
		{name: "another version", data: "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n",
			warnings: []string{"document 1 (line 1): ignored: discovery.k8s.io/v1beta1 EndpointSlice is not a Service, EndpointSlice, Node, ServiceCIDR or List"}},
		{name: "lists in lists", data: "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List}]\n",
			warnings: []string{"document 1 (line 1): ignored: v1 List is not a Service, EndpointSlice, Node, ServiceCIDR or List"}},
		{name: "unknown fields", data: service + "status: {}\nstatsu: {}\n",
			want:     []string{"Service default/web, document 1 (line 1)"},
			warnings: []string{`document 1 (line 1): Service: unknown field "statsu"`}},
		{name: "unknown field of an item", data: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {ports: [{prot: 1}]}}\n",
			want:     []string{"Service default/web, document 1 (line 1)"},
			warnings: []string{`document 1 (line 1): Service: unknown field "spec.ports[0].prot"`}},
		{name: "field names are exact", data: strings.Replace(service, "clusterIP", "clusterip", 1),
			want:     []string{"Service default/web, document 1 (line 1)"},
			warnings: []string{`document 1 (line 1): Service: unknown field "spec.clusterip"`}},

		{name: "YAML error in the second document", data: service + "---\nkind: [\nx: y\n", err: []string{"document 2 (line 6)", "line 7"}},
		{name: "a key twice", data: service + "kind: Service\n", err: []string{"document 1 (line 1)", "line 5", `"kind" already set`}},
		{name: "JSON error", file: "a.json", data: "{\n\"kind\": ?\n}", err: []string{"line 2"}},
		{name: "JSON cut short", file: "a.json", data: "{\n\"kind\": 1\n", err: []string{"line 3", "EOF"}},
		{name: "wrong type", data: strings.Replace(service, "port: 80", "port: http", 1), err: []string{"document 1 (line 1)", "Service", "spec.ports.port", "int32"}},
		{name: "number too large", data: strings.Replace(service, "port: 80", "port: 99999999999", 1), err: []string{"spec.ports.port", "99999999999"}},
		{name: "wrong type in an item", data: "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Node, metadata: {name: node-b}}\n- {apiVersion: v1, kind: Service, spec: []}\n",
			err: []string{"document 1 (line 1)", "items[1]", "Service"}},
		{name: "a null item", data: "apiVersion: v1\nkind: List\nitems: [null]\n", err: []string{"items[0]", "kind is missing"}},
		{name: "no kind", data: "apiVersion: v1\n", err: []string{"document 1 (line 1)", "apiVersion or kind is missing"}},
		{name: "no name", data: "apiVersion: v1\nkind: Service\n", err: []string{"metadata.name is missing"}},
		{name: "not an object", data: "hello\n", err: []string{"document 1 (line 1)", "string"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := tt.file
			if file == "" {
				file = "a.yaml"
			}
			objects, warnings, err := parseManifest(file, []byte(tt.data))
			if len(tt.err) == 0 && err != nil {
				t.Fatal(err)
			}
			for _, word := range tt.err {
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("error is %v, want one with %q", err, word)
				}
			}
			if diff := cmp.Diff(tt.want, parsedKeys(t, objects)); diff != "" {
				t.Errorf("objects (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warnings, warnings); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}

// TestManifestFolder reads the files that also seed the fuzzing.
func TestManifestFolder(t *testing.T) {
	log, lines := newLog()
	state := NewState()
	f := newFolder("testdata/manifests", "node-a", state, log)
	if err := f.read(nil, true); err != nil {
		t.Fatal(err)
	}
	state.sync()
	wantUpdate(t, state, Update{
		Changes: []Change{
			{Name: webName, Service: &endpoints.Service{
				Name:       webName,
				Ports:      []endpoints.Port{{Name: "http", Protocol: endpoints.TCP, Port: 80, NodePort: 30080}},
				ClusterIPs: addrs("10.96.0.10", "fd00:96::a"),
			}, Slices: []*endpoints.Slice{webSliceModel(func(s *endpoints.Slice) { s.Ports[0].Name = "" })}},
			{Name: endpoints.ObjectName{Namespace: "shop", Name: "api"}, Service: &endpoints.Service{
				Name:       endpoints.ObjectName{Namespace: "shop", Name: "api"},
				Ports:      []endpoints.Port{{Protocol: endpoints.TCP, Port: 81}},
				ClusterIPs: addrs("10.96.0.11"),
			}},
		},
		Node: &Node{Name: "node-a", Zone: "z1", Addresses: addrs("192.0.2.1")},
	})
	for _, words := range [][]string{
		{"WARN", "testdata/manifests/all.yaml", "document 3 (line 26)", "v1 ConfigMap"},
		{"WARN", "testdata/manifests/strict.json", "document 1 (line 1)", `unknown field \"spec.prots\"`},
		{"WARN", "testdata/manifests/strict.json", "document 1 (line 1)", `unknown field \"spec.ports[0].nodeport\"`},
	} {
		if lines.count(words...) != 1 {
			t.Errorf("no line with %q:\n%s", words, lines)
		}
	}
}

// FuzzParseManifest: whatever the bytes, there is no panic, and what comes out is usable.
func FuzzParseManifest(f *testing.F) {
	files, err := filepath.Glob("testdata/manifests/*")
	if err != nil || len(files) == 0 {
		f.Fatalf("seeds: %v, %v", files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, isJSON(file))
	}
	for _, text := range []string{
		"", "\xff\xfe", "---", "--- |\n x\n...\n", "%", "&a [*a, *a]", "? {}\n: 1", "!!binary x", "a: &a {<<: *a}", "[[[[[[", "{\"a\":", "\t- x",
		"apiVersion: v1\nkind: List\nitems: [1, null, [], {}]",
		"apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {clusterIP: '::', ports: [{port: -1}, null]}",
		"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: x}\naddressType: IPv6\nendpoints: [null, {addresses: ['']}]\nports: [null]",
	} {
		f.Add([]byte(text), false)
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, asJSON bool) {
		file := "a.yaml"
		if asJSON {
			file = "a.json"
		}
		objects, _, err := parseManifest(file, data)
		if err != nil {
			return
		}
		for _, o := range objects {
			k, object, err := convert(o.object, newInterner())
			if err != nil {
				t.Fatal(err)
			}
			if s := object.service; s != nil {
				if len(s.Ports) == 0 || len(s.ClusterIPs) == 0 || len(s.ClusterIPs) > 2 || !usableName(s.Name.Name) {
					t.Errorf("%v is served as %+v", k, s)
				}
				for _, p := range s.Ports {
					if p.Port == 0 || p.Protocol == 0 {
						t.Errorf("%v has port %+v", k, p)
					}
				}
			}
			if s := object.slice; s != nil {
				for _, e := range s.Endpoints {
					if !e.Addr.IsValid() || e.Addr.Is4In6() || e.Addr.Is6() != s.IPv6 {
						t.Errorf("%v has endpoint %+v", k, e)
					}
				}
			}
		}
	})
}
