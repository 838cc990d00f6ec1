;; Fill the store with no network: guix repl fill.scm
;; Trees, a flat file, a text with references, and a real two-output derivation whose references the daemon scans.
;; Writes the paths to /share/guix-paths.txt.
(use-modules (guix store) (guix derivations) (srfi srfi-1))

(define seed "/share/seed/")

(define script
  (string-append
   "set -e\n"
   "mkdir -p $out/bin $out/share $lib/lib\n"
   "cp -r $src/. $lib/lib/\n"
   "printf '#!%s/bin/sh\\nexec cat %s/lib/a.txt\\n' $bb $lib > $out/bin/hello\n"
   "chmod +x $out/bin/hello\n"
   "ln -s $lib/lib $out/lib\n"
   "echo self=$out > $out/share/self\n"))

(with-store store
  (let* ((add   (lambda (name recursive? file)
                  (add-to-store store name recursive? "sha256" file)))
         (tree  (add "tiny-tree" #t (string-append seed "tree")))
         (flat  (add "flat-file.txt" #f (string-append seed "tree/a.txt")))
         (exe   (add "exe-file" #t (string-append seed "tree/run")))
         (bb    (add "busybox-static" #t (string-append seed "busybox")))
         (large (add "guix-modules" #t "/usr/share/guile/site/3.0/guix"))
         (text  (add-text-to-store store "manifest-with-refs"
                                   (string-append "tree=" tree "\nexe=" exe "\n")
                                   (list tree exe)))
         ;; the builder must be in the store itself, hence busybox
         (build (add-text-to-store store "builder.sh" script '()))
         (drv   (derivation store "hello-offline-1.0" (string-append bb "/bin/sh") (list build)
                            #:sources (list build tree bb)
                            #:env-vars `(("src" . ,tree) ("bb" . ,bb)
                                         ("PATH" . ,(string-append bb "/bin")))
                            #:outputs '("out" "lib"))))
    (build-derivations store (list drv))
    (call-with-output-file "/share/guix-paths.txt"
      (lambda (port)
        (for-each (lambda (path) (display path port) (newline port))
                  (list tree flat exe bb text (derivation-file-name drv)
                        (derivation->output-path drv "out")
                        (derivation->output-path drv "lib")
                        large))))))
