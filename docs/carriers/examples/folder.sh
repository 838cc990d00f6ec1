#!/bin/sh
# A carrier for erisfs: blocks as files of a folder. Usage: --blocks "exec:folder.sh FOLDER"
folder=$1
mkdir -p "$folder"
echo "erisfs-carrier 1 get put has concurrency=1"
while read -r number verb reference length; do
    file=$folder/$reference
    case $verb in
    put)
        # Exactly the block is taken from stdin, and no byte of the next request.
        if dd bs="$length" count=1 iflag=fullblock of="$file.part" 2>/dev/null && mv "$file.part" "$file"; then
            echo "$number stored"
        else
            echo "$number error cannot write $file"
        fi ;;
    *)
        if [ ! -e "$file" ]; then
            echo "$number absent"
        elif [ "$verb" = has ]; then
            echo "$number present"
        else
            echo "$number block $(wc -c <"$file" | tr -d ' ')"
            cat "$file"
        fi ;;
    esac
done
