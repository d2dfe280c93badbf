package metrics

import (
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"
)

// /flagz and /statusz are as kube-proxy v1.36's: text for people, and JSON for those who ask for the kind by its
// name. The code is our own because Kubernetes' comes with all that an API server consists of.

const (
	component = "svcproxy"
	// emulated is the version of kube-proxy whose behaviour we have.
	emulated    = "1.36"
	zpagesGroup = "config.k8s.io"
)

const zpageHeader = `
%s %s
Warning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.
`

// zpage is a page in both of its forms.
type zpage struct {
	kind string // of the JSON; in small letters it is the page's name
	text func() string
	json func() any
}

type typeMeta struct {
	Kind       string            `json:"kind"`
	APIVersion string            `json:"apiVersion"`
	Metadata   map[string]string `json:"metadata"`
}

func (p zpage) meta() typeMeta {
	return typeMeta{p.kind, zpagesGroup + "/v1beta1", map[string]string{"name": component}}
}

// ServeHTTP answers with the form that the client takes. Text is what it gets if it does not say.
func (p zpage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	accepted := strings.Split(r.Header.Get("Accept"), ",")
	for _, accept := range accepted {
		media, params, err := mime.ParseMediaType(accept)
		switch {
		case strings.TrimSpace(accept) == "" && len(accepted) == 1,
			err == nil && (media == "text/plain" || media == "text/*" || media == "*/*"):
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			fmt.Fprintf(w, zpageHeader, component, strings.ToLower(p.kind))
			fmt.Fprint(w, p.text())
			return
		case err == nil && media == "application/json" && params["g"] == zpagesGroup && params["v"] == "v1beta1" && params["as"] == p.kind:
			w.Header().Set("Content-Type", "application/json;g="+zpagesGroup+";v=v1beta1;as="+p.kind)
			_ = json.NewEncoder(w).Encode(p.json()) // an error in writing is the client's
			return
		}
	}
	http.Error(w, fmt.Sprintf("only the following media types are accepted: text/plain, application/json;g=%s;v=v1beta1;as=%s", zpagesGroup, p.kind),
		http.StatusNotAcceptable)
}

// flagz lists what the flags are.
func flagz(flags map[string]string) zpage {
	p := zpage{kind: "Flagz"}
	p.text = func() string {
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(flags)) {
			fmt.Fprintf(&b, "%s:%s\n", name, flags[name])
		}
		return b.String()
	}
	p.json = func() any {
		return struct {
			typeMeta
			Flags map[string]string `json:"flags"`
		}{p.meta(), flags}
	}
	return p
}

// statusz says what runs here since when, and where to look further.
func statusz(version string, paths []string) zpage {
	started := time.Now()
	version = strings.TrimPrefix(version, "v")
	p := zpage{kind: "Statusz"}
	p.text = func() string {
		up := int(time.Since(started).Seconds())
		return fmt.Sprintf("\nStarted: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\nEmulation version: %s\nPaths: %s\n",
			started.Format(time.UnixDate), up/3600, up/60%60, up%60, runtime.Version(), version, emulated, strings.Join(paths, " "))
	}
	p.json = func() any {
		return struct {
			typeMeta
			StartTime        string   `json:"startTime"`
			UptimeSeconds    int      `json:"uptimeSeconds"`
			GoVersion        string   `json:"goVersion"`
			BinaryVersion    string   `json:"binaryVersion"`
			EmulationVersion string   `json:"emulationVersion"`
			Paths            []string `json:"paths"`
		}{p.meta(), started.UTC().Format(time.RFC3339), int(time.Since(started).Seconds()), runtime.Version(), version, emulated, paths}
	}
	return p
}
