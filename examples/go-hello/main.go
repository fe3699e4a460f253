// Go-hello greets over CGI with nothing but Go's standard library.
//
// Each request runs main once, in a fresh instance: package variables don't last between
// requests; files on a mounted volume do.
package main

import (
	"fmt"
	"log"
	"net/http"
	"net/http/cgi"
	"os"
)

func greet(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("name") // of the query or of a posted form
	if name == "" {
		name = "world"
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "Hello, %s!\nYou sent %s %s\n", name, r.Method, r.URL.Path)
}

func main() {
	log.SetFlags(0) // Limpet adds the time
	mux := http.NewServeMux()
	mux.HandleFunc("/", greet)
	if err := cgi.Serve(mux); err != nil {
		log.Println(err)
		os.Exit(1)
	}
}
